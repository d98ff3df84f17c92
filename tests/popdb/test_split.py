import pytest

from samuel.popdb.dataset import held_out

SONGS = [f"song{i}" for i in range(2000)]


def test_share_of_songs() -> None:
    assert len(held_out(SONGS, 0.1, seed=0)) == pytest.approx(200, abs=40)


def test_a_song_keeps_its_side_when_others_come() -> None:
    few, many = held_out(SONGS[:500], 0.1, seed=0), held_out(SONGS, 0.1, seed=0)
    assert few == many & set(SONGS[:500])


def test_the_seed_chooses_others() -> None:
    assert held_out(SONGS, 0.1, seed=0) != held_out(SONGS, 0.1, seed=1)


@pytest.mark.parametrize("count", [2, 3, 5])
def test_both_sides_get_a_song_of_a_small_dataset(count: int) -> None:
    for seed in range(20):
        assert 0 < len(held_out(SONGS[:count], 0.1, seed)) < count
        assert 0 < len(held_out(SONGS[:count], 0.5, seed)) < count


def test_nothing_is_held_out_of_one_song_or_at_share_zero() -> None:
    assert held_out(["a"], 0.5, seed=0) == set()
    assert held_out(SONGS, 0.0, seed=0) == set()
