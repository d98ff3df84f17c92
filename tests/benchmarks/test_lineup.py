import re
from pathlib import Path

import numpy as np

from benchmarks.lineup import lineup_rows, write_folders
from samuel.audio import SAMPLE_RATE, read_wav
from samuel.synthetic.song import compose


def test_the_folders_are_those_of_true_stems(tmp_path: Path) -> None:
    write_folders(tmp_path, 2, 3.0)
    vocal, true = (read_wav(tmp_path / name / "001.wav") for name in ("vocals", "true"))
    assert vocal.shape == true.shape == (2, 3 * SAMPLE_RATE)
    mix = compose(seed=7, index=1).mix
    first = (mix.shape[1] - vocal.shape[1]) // 2
    assert np.allclose(vocal + true, mix[:, first : first + vocal.shape[1]], atol=1e-4)
    assert np.array_equal(read_wav(tmp_path / "shifted" / "000.wav"), true)


def test_time_and_memory_are_of_the_whole_road() -> None:
    ((what, figure),) = lineup_rows(2, 3.0)
    assert what == "all but AudioBox, 2 tracks of 3.00 s"
    assert re.fullmatch(r"\d+\.\d s, \d+\.\d\d GiB", figure)
