"""Train a model, plot its losses and look inside it.  Run the cells one by one in an editor, or the whole script:

python examples/look_inside.py          (needs matplotlib; writes pictures to the current directory)
"""

# %% Train on nine tenths of the names; the last tenth is the held-out set
import matplotlib.pyplot as plt
import numpy as np

import microgpt

model = microgpt.train("input.txt", val_fraction=0.1, eval_every=100, num_steps=2000, batch_size=8)
print(f"held-out loss {model.history.val_losses[-1][1]:.4f}")
print(*model.sample(5), sep="\n")

# %% Plot the losses: the training loss of each step, and the held-out loss every hundred steps
figure, axes = plt.subplots(layout="constrained")
axes.plot(model.history.steps, model.history.losses, linewidth=0.3, label="training")
axes.plot(*zip(*model.history.val_losses), label="held out")
axes.set(xlabel="step", ylabel="nats a character")
axes.legend()
figure.savefig("losses.png")

# %% What surprises the model: bits for each character of a name, and for its end
name = "kamon"
(score,) = model.score([name])
for character, bits in zip([*name, "end"], score.bits):
    print(f"{character:>3} {'#' * round(4 * bits)} {bits:.2f} bits")

# %% Where each head attends: row i shows the tokens that token i reads; the first token is BOS
(heads,) = model.attention(name)  # one layer: n_head x tokens x tokens
figure, panels = plt.subplots(1, len(heads), figsize=(10, 3), layout="constrained")
for head, (axes, weights) in enumerate(zip(panels, heads)):
    axes.imshow(np.sqrt(weights), cmap="Blues", vmin=0, vmax=1)
    axes.set(title=f"head {head}", xticks=range(len(name) + 1), yticks=range(len(name) + 1))
    axes.set_xticklabels(["·", *name])
    axes.set_yticklabels(["·", *name])
figure.savefig("attention.png")

# %% Any intermediate by its name, one column per token: the norm of each token's vector in the embedding, and in the
# residual stream, which begins with x, the normed embedding
inside = model.inspect(name)
for part in "embedding", "x", "layer0.x_attn", "layer0.x_mlp":
    print(f"{part:<14}", *(f"{np.linalg.norm(column):6.2f}" for column in inside[part].T))
