"""growth_plot.py POINTS SVG: draws what growth.py measured."""
import json
import sys

import matplotlib

matplotlib.use("svg")
matplotlib.rcParams.update({"svg.hashsalt": "growth", "font.size": 9})
import matplotlib.pyplot as plt

points, svg = json.load(open(sys.argv[1])), sys.argv[2]
w1 = [p for p in points if p["table"] == "w1"]
tumble = [p for p in points if p["table"] == "tumble"]
figure, (rates, memory, windows) = plt.subplots(1, 3, figsize=(11, 3.2), layout="constrained")

rates.plot([p["keys"] for p in w1], [p["rate"] for p in w1], "o-")
rates.set(xscale="log", ylim=(0, None), xlabel="keys", ylabel="M rows/s", title="GROUP BY: rate")
memory.plot([p["held"] for p in w1], [p["mb"] for p in w1], "o-", label="process, peak")
memory.plot([p["held"] for p in w1], [p["held"] * 40 / 1e6 for p in w1], ":", label="40 bytes a key")
memory.set(xscale="log", yscale="log", xlabel="keys held", ylabel="MB, anonymous", title="GROUP BY: memory")
for keys in sorted({p["keys"] for p in tumble}):
    of = [p for p in tumble if p["keys"] == keys]
    windows.plot([p["open"] for p in of], [p["mb"] for p in of], "o-", label=f"{keys:,} keys a window")
windows.set(xscale="log", yscale="log", xlabel="open windows", ylabel="MB, anonymous", title="tumble 1 s: memory")
for axes in (rates, memory, windows):
    axes.grid(alpha=0.3)
for axes in (memory, windows):
    axes.legend(frameon=False)
plt.savefig(svg, metadata={"Date": None})
with open(svg) as f:
    lines = [line.rstrip() + "\n" for line in f]
with open(svg, "w") as f:
    f.writelines(lines)
