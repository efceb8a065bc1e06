"""Progress is for terminals; what one process tells another can show."""

import sys
import time

from pal import _progress


def looked_at(monkeypatch, looks=True):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: looks, raising=False)
    monkeypatch.setattr(_progress, "EVERY", 0.01)


def test_a_count_is_shown(capfd, monkeypatch):
    looked_at(monkeypatch)
    with _progress.counted("score, parts", 3, True) as advance:
        for _ in range(3):
            advance(1)
    shown = capfd.readouterr()
    assert shown.out == ""
    assert "score, parts" in shown.err
    assert "3/3" in shown.err


def test_what_a_worker_tells_the_caller_shows(tmp_path, capfd, monkeypatch):
    looked_at(monkeypatch)
    path = tmp_path / "to be made" / "progress.json"
    with _progress.steps_watched(path, True), _progress.steps_told(path, "K = 3") as report:
        report(17, 0.51234)
        report(18, 0.5)  # too soon after the last
        time.sleep(0.5)
    shown = capfd.readouterr()
    assert shown.out == ""
    assert "K = 3: step 17, validation log-loss 0.5123" in shown.err
    assert list(path.parent.iterdir()) == [path]


def test_nothing_is_shown_where_nobody_asks_or_looks(tmp_path, capfd, monkeypatch):
    for show, looks in ((False, True), (True, False)):
        looked_at(monkeypatch, looks)
        with _progress.steps_watched(tmp_path / "none.json", show), _progress.steps("K = 1", show) as report:
            report(1, 0.7)
        with _progress.counted("score", 1, show) as advance:
            advance(1)
        assert capfd.readouterr() == ("", "")
