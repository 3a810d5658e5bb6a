"""The table of results, for a terminal and as Markdown."""


def line_of(cases, ways, results):
    differ = [case for case in cases if "differs" in (results.get((case.name, way.name)) for way in ways)]
    skipped = [case for case in cases if "SKIP" in (results.get((case.name, way.name)) for way in ways)]
    return "hosting: %d ways, %d cases, %d differ, %d skipped" % (len(ways), len(cases), len(differ), len(skipped))


def played(table, ways, results):
    """The cases and ways of which there is a result."""
    cases = [case for case in table.cases if any((case.name, way.name) in results for way in ways)]
    return cases, [way for way in ways if any((case.name, way.name) in results for case in cases)]


def text_table(table, ways, results):
    cases, ways = played(table, ways, results)
    width = max(len(case.name) for case in cases)
    lines = [" " * width + "".join("  %d %s" % (way.number, way.name) for way in ways)]
    for case in cases:
        cells = (results.get((case.name, way.name), "-").center(len(way.name) + 2) for way in ways)
        lines.append((case.name.ljust(width) + "".join("  " + cell for cell in cells)).rstrip())
    return "\n".join(lines + ["", line_of(cases, ways, results)])
