"""Each case of the table on each way of hosting."""
import os

import player
import report
import support


def test_case(played):
    assert played() in (player.OK, player.DIFFERS)


def test_the_page_shows_what_ran(shipped):
    """deploy/hosting/table.md has every case and way, and the results of all that ran here. A run of everything
    leaves the page as it should be in the build folder."""
    page, table, ways, results = shipped
    if len(results) == len(table.cases) * len(ways):
        with open(os.path.join(support.BUILD, "hosting.md"), "w", encoding="utf-8") as f:
            f.write(report.markdown(table, ways, results))
    wrong = [(case, way, result, page.get((case, way))) for (case, way), result in results.items()
             if result in (player.OK, player.DIFFERS) and page.get((case, way)) != result]
    assert not wrong, "see hosting.md in the build folder after a whole run: %r" % wrong[:10]
    assert set(page) == {(case.name, way.name) for case in table.cases for way in ways}
