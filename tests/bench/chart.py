"""The chart of the intake: an SVG without any dependency, readable on white and on dark: it has a ground of its own."""
from html import escape

WIDTH, LABEL, BAR, ROW, TOP_SPACE = 900, 280, 240, 26, 74
STYLE = """
    .page { fill: #ffffff; stroke: #d0d7de }
    text { font: 13px system-ui, "Segoe UI", Helvetica, Arial, sans-serif; fill: #24292f }
    .title { font-size: 15px; font-weight: 600 }
    .small { font-size: 11px; fill: #57606a }
    .number { text-anchor: end; font-variant-numeric: tabular-nums }
    .ours { fill: #0969da } .ceiling { fill: #8c959f } .peer { fill: #bf8700 } .wrong { fill: #cf222e }
    .line { stroke: #8c959f; stroke-width: 1 }
    .mine { font-weight: 600 }
    @media (prefers-color-scheme: dark) {
        .page { fill: #0d1117; stroke: #30363d }
        text { fill: #e6edf3 }
        .small { fill: #9198a1 }
        .ours { fill: #4493f8 } .ceiling { fill: #6e7681 } .peer { fill: #d29922 } .wrong { fill: #f85149 }
    }
"""


def rows_of(part, connections):
    """The contestants measured at so many connections, the fastest first."""
    wrong = {what.partition(":")[0] for what in part["wrong"]}
    rows = []
    for one in part["figures"].get("contestants", {}).values():
        seen = one["connections"].get(str(connections))
        if seen:
            handler = one["memory"]
            rows.append({"title": one["title"].replace("`", ""), "kind": "wrong" if one["title"] in wrong else one["kind"],
                         "speed": seen["requests_s"]["median"], "p99": seen["p99_ms"]["median"],
                         "cpu": seen["cpu_10k"]["median"] if handler else None,
                         "memory": handler["pss_mib"] if handler else None})
    return sorted(rows, key=lambda row: -row["speed"])


def text(x, y, words, kind=""):
    return '<text x="%d" y="%d"%s>%s</text>' % (x, y, ' class="%s"' % kind if kind else "", escape(words))


def short(value, form):
    return "-" if value is None else form % value


def draw(result, connections=64):
    """The chart as text; None when nothing was measured at so many connections."""
    part = result["parts"].get("intake")
    rows = rows_of(part, connections) if part else []
    if not rows:
        return None
    most, height = max(row["speed"] for row in rows), TOP_SPACE + ROW * len(rows) + 62
    ours = next((row["speed"] for row in rows if row["kind"] == "ours"), None)
    columns = (("requests/s", 600), ("of ours", 665), ("p99 ms", 735), ("CPU s / 10,000", 830), ("MiB", 890))
    absent = ["Not run: %s (%s)." % pair for pair in sorted(part["not_run"].items())]
    height += 16 * len(absent)
    out = ['<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" role="img">' % (WIDTH, height),
           "<title>Requests a second at %d connections</title>" % connections, "<style>%s</style>" % STYLE,
           '<rect class="page" x="0.5" y="0.5" width="%d" height="%d" rx="6"/>' % (WIDTH - 1, height - 1),
           text(10, 22, "Admissions answered in a second, %d connections through the same nginx" % connections, "title"),
           text(10, 41, "Blue: examhook. Yellow: the same durable work, committed before the answer. Grey: nothing is done, "
                "nothing stored.", "small")]
    out += [text(x, TOP_SPACE - 10, name, "small number") for name, x in columns]
    for number, row in enumerate(rows):
        y = TOP_SPACE + ROW * number
        mine = " mine" if row["kind"] == "ours" else ""
        out += [text(10, y + 17, row["title"], "mine" if mine else ""),
                '<rect class="%s" x="%d" y="%d" width="%.1f" height="%d" rx="2"/>' % (
                    row["kind"], LABEL, y + 4, max(1.5, BAR * row["speed"] / most), ROW - 9)]
        cells = ("{:,.0f}".format(row["speed"]), "%.2f" % (row["speed"] / ours) if ours else "-", "%.1f" % row["p99"], short(row["cpu"], "%.2f"), short(row["memory"], "%.1f"))
        out += [text(x, y + 17, cell, "number" + mine) for cell, (_, x) in zip(cells, columns)]
    where = result["machine"]
    foot = TOP_SPACE + ROW * len(rows)
    out += ['<line class="line" x1="%d" y1="%d" x2="%d" y2="%d"/>' % (LABEL, TOP_SPACE, LABEL, foot),
            text(10, foot + 22, "Medians of interleaved rounds; CPU: user and system time of the handler's processes; MiB: what "
                 "they own and share (PSS).", "small"),
            text(10, foot + 38, "%s, %d cores, which wrk, nginx and the handler share; %s; %s; %s." % (
                where["processor"], where["cores"], where["system"], result["command"], result["when"][:10]), "small")]
    out += [text(10, foot + 54 + 16 * number, line, "small") for number, line in enumerate(absent)]
    out.append("</svg>")
    return "\n".join(out) + "\n"
