"""Each case of the table on each way of hosting."""
import player


def test_case(result):
    assert result in (player.OK, player.DIFFERS)
