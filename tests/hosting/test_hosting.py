"""Each case of the table on each way of hosting."""
import player


def test_case(played):
    assert played() in (player.OK, player.DIFFERS)
