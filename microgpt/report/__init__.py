"""Reports about a trained model: each is a single HTML file that makes no network requests."""
