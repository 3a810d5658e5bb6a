"""Each case of the table on each way of hosting."""
import os

import player
import report
import support


def test_case(played):
    assert played() in (player.OK, player.DIFFERS)


def test_the_page_shows_what_ran(shipped):
    """deploy/hosting/table.md and README.md have every case and way, and the results of all that ran here. A run of
    everything leaves both as they should be in the build folder."""
    text, table, ways, results = shipped
    page = report.read_page(text)
    if len(results) == len(table.cases) * len(ways):
        for name, write in (("hosting.md", report.markdown), ("hosting-readme.md", report.readme_part)):
            with open(os.path.join(support.BUILD, name), "w", encoding="utf-8") as f:
                f.write(write(table, ways, results))
    wrong = [(case, way, result, page.get((case, way))) for (case, way), result in results.items()
             if result in (player.OK, player.DIFFERS) and page.get((case, way)) != result]
    assert not wrong, "see hosting.md in the build folder after a whole run: %r" % wrong[:10]
    assert text == report.markdown(table, ways, page), "a case or a reason was changed, and the page was not"
    with open(report.README, encoding="utf-8") as f:
        assert report.readme_part(table, ways, page) in f.read(), "README.md has another table than the page"


def test_declared_differences_are_of_ways_that_there_are(shipped):
    _, table, ways, _ = shipped
    declared = {way for case in table.cases for _, way, _, _ in report.differences(case)}
    declared |= {way for case in table.cases for way in case.skips}
    assert declared <= {way.name for way in ways}
