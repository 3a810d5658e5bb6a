"""The table of results, for a terminal, as the page deploy/hosting/table.md, and as a part of README.md."""
import os

from table import Request

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SHIPPED = os.path.join(TOP, "deploy/hosting/table.md")
README = os.path.join(TOP, "README.md")
SIGNS = {"ok": "ok", "differs": "**differs**"}


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


def differences(case):
    """(instead of, way, instead, reason) of all that is declared in a case."""
    for step in case.steps:
        for one in step.expected if isinstance(step, Request) else [step]:
            for way, (instead, reason) in one.differs.items():
                yield "%s %s" % (one.word.replace("<", "answer"), one.text), way, instead, reason


def cell(text):
    """A text as it may stand in a cell."""
    return "`" + text.replace("|", "\\|") + "`"


def markdown(table, ways, results):
    names = {way.name: way.title for way in ways}
    lines = ["# Every case on every way of hosting", "",
             "Written by `make check-hosting`, which also holds it true. The cases are in `tests/hosting/cases`.", "",
             "    " + line_of(table.cases, ways, results), "", "## What differs, and why", "",
             "| case | way | instead of | it is | because |", "|---|---|---|---|---|"]
    for case in table.cases:
        for what, way, instead, reason in differences(case):
            lines.append("| %s | %s | %s | %s | %s |" % (case.name, names[way], cell(what), cell(instead),
                                                         reason.replace("|", "\\|")))
    lines += ["", "## All", "", "| case | " + " | ".join(way.name for way in ways) + " |",
              "|---|" + "---|" * len(ways)]
    for case in table.cases:
        lines.append("| %s | %s |" % (case.name, " | ".join(SIGNS.get(results.get((case.name, way.name)), "?")
                                                             for way in ways)))
    return "\n".join(lines) + "\n"


def readme_part(table, ways, results):
    """What README.md has of it, from the closing line to the last case."""
    signs = {"ok": "ok", "differs": "differs"}
    lines = ["    " + line_of(table.cases, ways, results), "",
             ", ".join("%d %s" % (way.number, way.title) for way in ways) + ".", "",
             "<details><summary>Every case</summary>", "",
             "| case | " + " | ".join(str(way.number) for way in ways) + " |", "|---|" + "---|" * len(ways)]
    for case in table.cases:
        lines.append("| %s | %s |" % (case.name, " | ".join(signs.get(results.get((case.name, way.name)), "?")
                                                             for way in ways)))
    return "\n".join(lines + ["", "</details>"]) + "\n"


def read_page(text):
    """{(case, way): result} of a page's text."""
    rows = [[field.strip() for field in line.strip("|").split("|")]
            for line in text.partition("## All")[2].splitlines() if line.startswith("|")]
    words = {sign: word for word, sign in SIGNS.items()}
    return {(row[0], way): words.get(sign) for row in rows[2:] for way, sign in zip(rows[0][1:], row[1:])}
