"""The figures that Weft must reach: ratios inside one round, median over the rounds. A missed one is printed as it is."""
import statistics

# (what, Weft's figure, the peer and figure it is compared with or None for an absolute value, the most that is allowed)
GOALS = [
    ("HTTP/1 1 KB, CPU per request", "pair.sat_h1_1k.cpu_us", ("floor", "pair.sat_h1_1k.cpu_us"), 0.95),
    ("HTTP/1 1 KB, CPU per request", "pair.sat_h1_1k.cpu_us", ("nginx", "pair.sat_h1_1k.cpu_us"), 0.65),
    ("HTTP/1 1 KB, CPU per request", "pair.sat_h1_1k.cpu_us", ("envoy", "pair.sat_h1_1k.cpu_us"), 0.35),
    ("HTTP/2 128 B, CPU per request", "pair.sat_h2.cpu_us", ("floor", "pair.sat_h2.cpu_us"), 1.5),
    ("HTTP/2 128 B, CPU per request", "pair.sat_h2.cpu_us", ("envoy", "pair.sat_h2.cpu_us"), 0.15),
    ("HTTP/1 64 KB, CPU per request", "pair.sat_h1_64k.cpu_us", ("floor", "pair.sat_h1_64k.cpu_us"), 0.95),
    ("HTTP/1 p50 at 1,000/s", "pair.lat_h1_1k.p50", ("floor", "pair.lat_h1_1k.p50"), 1.1),
    ("HTTP/2 p50 at 1,000/s", "pair.lat_h2.p50", ("floor", "pair.lat_h2.p50"), 1.2),
    ("new client connection, CPU", "pair.newconn_h1.cpu_us", ("nginx", "pair.newconn_h1.cpu_us"), 1.0),
    ("resident memory, outbound, idle, MiB", "pair.rss_idle.out", None, 9),
    ("resident memory, inbound, idle, MiB", "pair.rss_idle.in", None, 9),
    ("resident memory, outbound, 1,000 connections, MiB", "pair.rss_1000.out", None, 12),
    ("resident memory, inbound, 1,000 connections, MiB", "pair.rss_1000.in", None, 12),
    ("exec to first 200", "pair.first200.ms", ("envoy", "pair.first200.ms"), 0.4),
    ("bulk TCP up, CPU per MB", "pair.bulk_up.cpu_us", ("floor", "pair.bulk_up.cpu_us"), 1.1),
    ("bulk TCP down, CPU per MB", "pair.bulk_down.cpu_us", ("floor", "pair.bulk_down.cpu_us"), 1.1),
    ("HTTP/1 1 KB, 8 endpoints, CPU per request", "pair.sat_h1_many.cpu_us", ("floor", "pair.sat_h1_1k.cpu_us"), 1.1),
    ("HTTP/2 128 B, 8 endpoints, CPU per request", "pair.sat_h2_many.cpu_us", ("floor", "pair.sat_h2.cpu_us"), 2.5),
]


def judge(figures):
    """`figures(ours, peer, path)`: the ratio (or, without a peer, the figure) of each round. Rows of what was measured, and of what was not."""
    rows = []
    for what, ours, against, limit in GOALS:
        got = figures(ours, *(against or (None, None)))
        row = {"goal": what, "against": against[0] if against else "absolute", "limit": limit, "rounds": len(got)}
        if got:
            m = statistics.median(got)
            row |= {"measured": round(m, 3), "min": round(min(got), 3), "max": round(max(got), 3), "reached": m <= limit}
        rows.append(row)
    return rows


def table(rows):
    lines = ["| goal | against | at most | measured | |", "|---|---|---|---|---|"]
    for r in rows:
        spread = f" [{r['min']}-{r['max']}]" if r.get("rounds", 0) > 1 else ""
        verdict = {True: "reached", False: "**missed**", None: "not measured"}[r.get("reached")]
        lines.append(f"| {r['goal']} | {r['against']} | {r['limit']} | {r.get('measured', '-')}{spread} | {verdict} |")
    return "\n".join(lines)
