"""Checkpoint files: load() and numpy.load read back what was saved."""

import io
import json
import sys
import threading
import zipfile

import numpy as np
import pytest
from helpers import ROOT, everything, tiny_trainer

from microgpt.base import files
from microgpt.base.config import Config, resumed
from microgpt.base.errors import CheckpointError, NotFiniteError
from microgpt.core.trainer import Trainer
from microgpt.runs import checkpoint


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("settings", [{}, {"n_layer": 2}, {"n_embd": 1, "n_head": 1}, {"block_size": 1}], ids=str)
def test_round_trip(tmp_path, dtype, settings):
    """A loaded checkpoint holds every value of the saved one, to the last bit."""
    saved = tiny_trainer(tmp_path, 5, dtype=dtype, **settings).checkpoint()
    files.write(str(tmp_path / "c"), checkpoint.to_bytes(saved))
    loaded = checkpoint.load(str(tmp_path / "c"))
    assert everything(loaded) == everything(saved)
    assert bytes(checkpoint.to_bytes(loaded)) == (tmp_path / "c").read_bytes()


@pytest.mark.parametrize("text", ['a,b[c{d"e\\f', "zoë 🙂\u2028\x0b", "\x00\x7f"], ids=["JSON", "Unicode", "control"])
def test_odd_characters(tmp_path, text):
    """Vocabularies of any characters and paths of any bytes are read back."""
    path = tmp_path / 'in\udcff,["\n.txt'
    path.write_text(text, encoding="utf-8")
    saved = Trainer(Config(input=str(path), n_embd=4)).checkpoint()
    (tmp_path / "c").write_bytes(checkpoint.to_bytes(saved))
    assert everything(checkpoint.load(str(tmp_path / "c"))) == everything(saved)


def test_numpy_reads_it(tmp_path):
    """numpy.load without pickle finds the named matrices, column-major, Adam's moments and a JSON text."""
    trainer = tiny_trainer(tmp_path, 3)
    with np.load(io.BytesIO(checkpoint.to_bytes(trainer.checkpoint())), allow_pickle=False) as file:
        assert file.files == ["run", *trainer.params.views, "m", "v"]
        for name, view in trainer.params.views.items():
            assert file[name].flags.f_contiguous
            np.testing.assert_array_equal(file[name], view)
        np.testing.assert_array_equal(file["m"], trainer.optimizer.arrays["m"])
        run = json.loads(file["run"].tobytes())
    assert run["step"] == 3 and run["config"]["n_embd"] == 4 and run["vocab"] == "".join(trainer.vocab)


def test_no_time_of_day(tmp_path):
    """Equal runs give equal bytes: every member has the same date, and none is compressed."""
    first, second = (bytes(checkpoint.to_bytes(tiny_trainer(tmp_path, 4).checkpoint())) for _ in range(2))
    assert first == second
    for info in zipfile.ZipFile(io.BytesIO(first)).infolist():
        assert info.date_time == (1980, 1, 1, 0, 0, 0) and info.compress_type == zipfile.ZIP_STORED


def test_loading_runs_nothing_and_opens_nothing_else(tmp_path):
    """Loading imports, compiles and executes nothing, and opens no other file."""
    path = str(tmp_path / "c")
    files.write(path, checkpoint.to_bytes(tiny_trainer(tmp_path, 1).checkpoint()))
    checkpoint.load(path)  # so that imports happen before the measurement
    seen, me = [], threading.get_ident()

    def audit(event, arguments):
        if watching and threading.get_ident() == me:
            seen.append((event, arguments[0] if arguments else None))

    watching = True
    sys.addaudithook(audit)
    try:
        checkpoint.load(path)
    finally:
        watching = False
    assert {event for event, _ in seen} <= {"open", "os.open"} and ("open", path) in seen
    assert {found for event, found in seen if event == "open"} == {path}


def test_an_older_checkpoint(tmp_path):
    """The stored checkpoint of an earlier build loads, and its resumed run gives the same losses."""
    saved = checkpoint.load(str(ROOT / "tests" / "golden" / "checkpoint.npz"))
    assert (saved.step, saved.n_worse, "".join(saved.vocab)) == (4, 0, "abcdelnorv")
    (tmp_path / "documents.txt").write_text("anna\nbob\ncarol\ndave\n")
    trainer = Trainer(resumed(saved.config, {"input": str(tmp_path / "documents.txt")}, saved.step), saved)
    assert saved.config.val_split == "documents"  # as runs were split then
    assert trainer.measure().document_loss == saved.best_val_loss  # and measured
    trainer.steps(8, losses := [], ())
    assert losses == [2.2821568508529952, 2.338134208346891, 2.510086649490729, 2.2281003609569465]


def test_half_a_pair_of_gaussians(tmp_path):
    """An odd number of weights leaves half a pair in the random generator, which a checkpoint keeps."""
    saved = tiny_trainer(tmp_path, 2, n_embd=1, n_head=1, block_size=5).checkpoint()
    assert saved.rng_state[2] is not None
    (tmp_path / "c").write_bytes(checkpoint.to_bytes(saved))
    loaded = checkpoint.load(str(tmp_path / "c"))
    assert everything(Trainer(loaded.config, loaded).checkpoint()) == everything(saved)


@pytest.mark.parametrize("where", ["weights", "m", "v"])
def test_not_finite_is_not_saved(tmp_path, where):
    """Weights or moments that are not finite raise an error instead of writing a checkpoint that cannot be loaded."""
    trainer = tiny_trainer(tmp_path)
    {"weights": trainer.params.flat, **trainer.optimizer.arrays}[where][-1] = np.inf
    with pytest.raises(NotFiniteError, match=where):
        trainer.checkpoint()


def test_a_vocabulary_too_large_to_load_is_not_saved(tmp_path, monkeypatch):
    """A checkpoint that load() would reject is not saved."""
    monkeypatch.setattr(checkpoint, "MAX_JSON", 1000)
    with pytest.raises(CheckpointError, match="at most 1000 bytes"):
        checkpoint.to_bytes(tiny_trainer(tmp_path).checkpoint())
