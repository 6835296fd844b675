"""Pages about a trained model, each one file of HTML that asks nothing of a network."""
