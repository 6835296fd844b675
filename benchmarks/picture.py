"""Plot the table of speed.py as bars: microgpt in blue, the others in grey, and the floor as a line."""

OURS, PEERS = "#0868ac", {"NumPy": "0.62", "PyTorch": "0.78", "Python": "0.88"}


def label(us):
    return f"{us:,.0f}" if us >= 100 else f"{us:.1f}"


def draw(rows, path):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(10, 4.6), layout="constrained")
    places, names, x = [], [], 0.0
    for row in rows:
        bars = [(name, row["us"][name]) for name in ("microgpt", *PEERS) if name in row["us"]]
        for i, (name, us) in enumerate(bars):
            axes.bar(x + i, us, 0.9, color=PEERS.get(name, OURS))
            look = {"color": "0.3"} if name in PEERS else {"color": OURS, "weight": "bold"}
            axes.annotate(label(us), (x + i, us), (0, 2), textcoords="offset points", ha="center", fontsize="x-small",
                          **look)  # fmt: skip
            if row is rows[0]:
                axes.annotate(name, (x + i, 1), (0, 4), textcoords="offset points", ha="center", rotation=90,
                              fontsize="small", color="white" if name not in PEERS else "0.1")  # fmt: skip
        axes.hlines(row["floor_us"], x - 0.5, x + len(bars) - 0.5, color="black", linewidth=1)
        if row is rows[0]:
            axes.annotate("floor:\narithmetic at\npeak speed", (x - 0.5, row["floor_us"]), (-4, 0), va="center",
                          textcoords="offset points", ha="right", fontsize="x-small")  # fmt: skip
        places.append(x + (len(bars) - 1) / 2)
        batch = f"{row['batch_size']} document" + "s" * (row["batch_size"] > 1)
        names.append(f"{batch}\n{row['n_embd']} wide\n{row['dtype']}")
        x += len(bars) + 1
    axes.set_yscale("log")
    axes.set_ylim(1, 4e5)
    axes.set_yticks([])
    axes.minorticks_off()
    axes.set_xticks(places, names)
    axes.tick_params(length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.set_title("Microseconds per training step, one core (logarithmic)", loc="left", fontsize="medium")
    figure.savefig(path, dpi=120)
