from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"


@pytest.fixture
def shared():
    """Folder of the real data, beside the repository; tests that need it are skipped where it is absent."""
    if not SHARED.is_dir():
        pytest.skip("no ../shared/data here: the real data are not part of the repository")
    return SHARED


@pytest.fixture
def polis_folder(tmp_path):
    """Writes a small Polis export."""

    def write(votes, comments=(("0", "Paint the bridge"), ("1", "Close the ferry"), ("2", "Keep the owls"))):
        folder = tmp_path / "polis"
        folder.mkdir(exist_ok=True)
        lines = [f"1,Mon,{number},7,0,0,1,{text}" for number, text in comments]
        head = "timestamp,datetime,comment-id,author-id,agrees,disagrees,moderated,comment-body"
        (folder / "comments.csv").write_text("\n".join([head, *lines]) + "\n", encoding="utf-8")
        ids = [number for number, _ in comments]
        head = ["participant", "group-id", "n-comments", "n-votes", "n-agree", "n-disagree", *ids]
        rows = [[person, "", "0", "0", "0", "0", *cells] for person, cells in votes]
        text = "\n".join(",".join(row) for row in [head, *rows])
        (folder / "participants-votes.csv").write_text(text + "\n", encoding="utf-8")
        return folder

    return write
