import json

import pytest
from PIL import Image

from idarts_nni.animate import animate_cells
from idarts_nni.architecture import Architecture, Edge
from idarts_nni.cli import main
from idarts_nni.space import CellSpace

from .test_page import search
from .test_report import record

SPACE = CellSpace(8, ("zeroize", "tanh", "relu", "sigmoid", "identity"), edges_per_node=2)


def frames(count: int):
    return [(epoch, Architecture.random(SPACE, epoch)) for epoch in range(1, count + 1)]


def test_animation_has_a_picture_for_each_epoch_and_stays_on_the_last(tmp_path):
    image = Image.open(animate_cells(frames(4), tmp_path / "deep" / "out.gif", "search", seconds=0.5))
    times = []
    for index in range(image.n_frames):
        image.seek(index)
        times.append(image.info["duration"])
    assert times == [500, 500, 500, 3000] and image.info["loop"] == 0


def test_states_stay_where_they_are_and_colours_do_not_flicker(tmp_path):
    one = Architecture(((Edge(0, "tanh"),), (Edge(0, "tanh"),)))
    other = Architecture(((Edge(0, "tanh"),), (Edge(1, "relu"),)))
    image = Image.open(animate_cells([(1, one), (2, other)], tmp_path / "out.gif"))
    pictures = []
    for index in (0, 1):
        image.seek(index)
        pictures.append(image.convert("RGB"))
    assert pictures[0].size == pictures[1].size and pictures[0] != pictures[1]
    # What is black in one (states and their numbers) is black in the other; the edge 0 tanh is there twice.
    blue = [sum(b > 160 and r < 20 for r, _, b in picture.get_flattened_data()) for picture in pictures]
    assert blue[0] > blue[1] > 50
    white = [picture.getpixel((2, picture.height - 2)) for picture in pictures]
    assert white[0] == white[1] == (255, 255, 255)


def test_same_search_gives_the_same_bytes(tmp_path):
    paths = [animate_cells(frames(2), tmp_path / name) for name in ("a.gif", "b.gif")]
    assert paths[0].read_bytes() == paths[1].read_bytes()


@pytest.mark.parametrize("cells, name, words", [
    ([], "out.gif", "at least one cell"),
    (frames(1), "out.png", "ends in .gif"),
    ([*frames(1), (2, Architecture(((Edge(0, "tanh"),),)))], "out.gif", "same number of nodes"),
], ids=["none", "ending", "sizes"])  # fmt: skip
def test_unusable_animation_is_an_error_and_writes_nothing(tmp_path, cells, name, words):
    with pytest.raises(ValueError, match=words):
        animate_cells(cells, tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_draw_animates_a_record_or_every_search_of_a_folder(tmp_path, capsys):
    for method in ("idarts", "darts"):
        (tmp_path / method).mkdir()
        (tmp_path / method / "record.json").write_text(json.dumps(search(method)))
    gif = str(tmp_path / "out.gif")
    assert main(["draw", str(tmp_path / "darts" / "record.json"), "--animate", gif]) == 0
    assert capsys.readouterr().out.split() == [gif] and Image.open(gif).n_frames == 4
    assert main(["draw", str(tmp_path), "--animate", gif]) == 0
    assert [path.rpartition("/")[2] for path in capsys.readouterr().out.split()] == [
        "out-search-idarts-r1.gif", "out-search-darts-r1.gif",
    ]  # fmt: skip


def test_record_without_the_cells_of_its_epochs_is_exit_code_2(tmp_path, capsys):
    (tmp_path / "record.json").write_text(json.dumps(record()))
    assert main(["draw", str(tmp_path), "--animate", str(tmp_path / "out.gif")]) == 2
    assert "no search in it has recorded" in capsys.readouterr().err
    assert main(["draw", str(tmp_path / "gone"), "--animate", str(tmp_path / "out.gif")]) == 2
