"""Captions and folders as people have them: what can be read is read, the rest is counted."""

import json
import os
import unicodedata

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from sage.training.captions import EXPECTED, LONGEST, decoded
from sage.training.coco import read_coco

# Every kind of value that somebody's script may have put into a file.
ODD = [None, 5, 2.5, float("nan"), True, [], {}, [[["deep"]]], "", "  \n"]


def picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4)).save(path, format="JPEG")


def coco(images, annotations):
    return {
        "images": [{"id": number, "file_name": name} for number, name in images],
        "annotations": [
            {"id": n, "image_id": number, "caption": text}
            for n, (number, text) in enumerate(annotations)
        ],
    }


def folder_of(tmp_path, content, *pictures, name="captions_a.json"):
    """A folder with a file of captions and pictures; `content` is bytes, text or what JSON has."""
    for each in pictures or ("1.jpg",):
        picture(tmp_path / each)
    if not isinstance(content, str | bytes):
        content = json.dumps(content)
    if isinstance(content, str):
        content = content.encode()
    (tmp_path / name).write_bytes(content)
    return tmp_path


def captions(folder):
    return read_coco(folder)[0].captions


FOX = coco([(1, "1.jpg")], [(1, "a fox")])


@pytest.mark.parametrize(
    "encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-8", "cp1252"]
)
def test_any_encoding_of_text(tmp_path, encoding):
    content = json.dumps(coco([(1, "1.jpg")], [(1, "a fox at a café")]), ensure_ascii=False)
    folder_of(tmp_path, content.replace(", ", ",\r\n").encode(encoding))
    assert captions(tmp_path) == ("a fox at a café",)
    assert decoded(b"") == ""


@pytest.mark.parametrize(
    ("one", "other"),
    [(100, "100"), ("100", 100), (100.0, 100), ("000100", 100), (100, " 100 "), ("a1", "a1")],
)
def test_ids_of_another_type_are_the_same_ids(tmp_path, one, other):
    folder_of(tmp_path, coco([(one, "1.jpg")], [(other, "a fox")]))
    assert captions(tmp_path) == ("a fox",)


@pytest.mark.parametrize(
    ("content", "read"),
    [
        ("a café, a naïve fox".encode() + b"\xff", "a café, a naïve fox"),
        ("un été à la café".encode()[:-1], "un été à la caf"),
        ("un été à Besançon".encode("cp1252"), "un été à Besançon"),
        ("狐狸在雪地里".encode("gb18030"), None),
        ("雪の中の狐".encode("shift_jis"), None),
        ("лиса в снегу".encode("cp1251"), None),
        ("狐狸在雪地里看雪".encode("utf-16-le"), None),
        (bytes(range(256)), None),
    ],
)
def test_a_text_in_another_code_page_is_not_guessed(tmp_path, content, read):
    for n, text in enumerate((content, b"a dog")):
        picture(tmp_path / f"{n}.jpg")
        (tmp_path / f"{n}.txt").write_bytes(text)
    data, skips = read_coco(tmp_path)
    assert data.captions == ((read, "a dog") if read else ("a dog",))
    words = ["0.txt: its encoding is not known; save it as UTF-8"]
    assert skips.names == ({} if read else {"file of captions cannot be read": words})


def test_a_huge_number_costs_its_record(tmp_path):
    content = json.dumps(coco([(1, "1.jpg"), (2, "2.jpg")], [(1, "a fox"), (2, "a dog")]))
    content = content.replace('"image_id": 2', f'"image_id": {"9" * 5000}')
    assert captions(folder_of(tmp_path, content, "1.jpg", "2.jpg")) == ("a fox",)


def test_ids_that_differ_by_zeros_only_stay_two(tmp_path):
    content = coco([("01", "a.jpg"), ("1", "b.jpg")], [("1", "one"), ("01", "zero one")])
    data, _ = read_coco(folder_of(tmp_path, content, "a.jpg", "b.jpg"))
    owners = zip(data.captions, data.owners, strict=True)
    named = {text: data.pictures[owner].name for text, owner in owners}
    assert named == {"one": "b.jpg", "zero one": "a.jpg"}


@pytest.mark.parametrize(
    ("written", "there"),
    [
        ("1.jpg", "1.JPG"),
        ("IMG.JPEG", "img.jpeg"),
        ("sub\\1.jpg", "sub/1.jpg"),
        ("Sub/1.jpg", "sub/1.jpg"),
        ("./sub//1.jpg", "sub/1.jpg"),
        ("C:\\Users\\me\\1.jpg", "1.jpg"),
        ("\\\\server\\share\\1.jpg", "1.jpg"),
        ("/home/me/data/1.jpg", "images/1.jpg"),
        ("train2017/1.jpg", "train2017/1.jpg"),
        ("https://example.org/a/my%20fox.jpg?size=2#top", "my fox.jpg"),
        ("my%20fox.jpg", "my fox.jpg"),
        ("my%20fox.jpg", "my%20fox.jpg"),
        (" 1.jpg ", "1.jpg"),
        ("1.jpg", "1.jpg "),
        (unicodedata.normalize("NFD", "café.jpg"), unicodedata.normalize("NFC", "café.jpg")),
        (unicodedata.normalize("NFC", "über/ö.jpg"), unicodedata.normalize("NFD", "über/ö.jpg")),
        ("狐 🦊.jpg", "狐 🦊.jpg"),
        ("1", "1.jpg"),
        ("sub/../../1.jpg", "1.jpg"),
    ],
)
def test_names_that_mean_the_same_file(tmp_path, written, there):
    data, skips = read_coco(folder_of(tmp_path, coco([(1, written)], [(1, "a fox")]), there))
    assert data.pictures == (tmp_path / there,)
    assert data.pictures[0].is_file()
    assert not skips.counts


@pytest.mark.parametrize(
    "written",
    ["../secret.jpg", "..\\secret.jpg", "{above}/secret.jpg", "a/../../secret.jpg",
     "%2e%2e/secret.jpg", "file://{above}/secret.jpg"],
)  # fmt: skip
def test_no_path_leaves_the_folder(tmp_path, written):
    picture(tmp_path / "secret.jpg")
    content = coco([(1, written.format(above=tmp_path)), (2, "2.jpg")], [(1, "a"), (2, "b")])
    data, skips = read_coco(folder_of(tmp_path / "data", content, "2.jpg"))
    assert data.captions == ("b",)
    assert skips.names == {"picture is missing": ["secret.jpg"]}


@pytest.mark.parametrize(
    "written",
    [
        "",
        " ",
        ".",
        "..",
        "/",
        "\\",
        "a\0b.jpg",
        "x" * 5000,
        "a/" * 3000 + "1.png",
        "://",
        "http://[",
    ],
)
def test_odd_names_are_counted(tmp_path, written):
    content = coco([(1, written), (2, "2.jpg")], [(1, "a"), (2, "b")])
    data, skips = read_coco(folder_of(tmp_path, content, "2.jpg"))
    assert data.captions == ("b",)
    assert sum(skips.counts.values()) >= 1


@pytest.mark.parametrize("name", [None, 5, ["1.jpg"], {}, float("nan"), True])
def test_names_that_are_no_text_are_counted(tmp_path, name):
    content = coco([(1, name), (2, "2.jpg")], [(1, "a"), (2, "b")])
    data, skips = read_coco(folder_of(tmp_path, content, "2.jpg"))
    assert data.captions == ("b",)
    assert skips.counts["picture has no id or file name"] == 1


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("field", ["id", "image_id", "caption", None])
def test_odd_values_cost_one_record(tmp_path, odd, field):
    content = coco([(1, "1.jpg")], [(1, "a fox"), (1, "a dog")])
    content["annotations"][0] = odd if field is None else content["annotations"][0] | {field: odd}
    data, skips = read_coco(folder_of(tmp_path, content))
    assert "a dog" in data.captions
    if field != "id":
        assert data.captions == ("a dog",)
        assert sum(skips.counts.values()) >= (0 if odd == [] and field == "caption" else 1)


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("field", ["images", "annotations", "image"])
def test_odd_lists_cost_no_more_than_the_file(tmp_path, odd, field):
    content = json.loads(json.dumps(FOX))
    if field == "image":
        content["images"].insert(0, odd)
    else:
        content[field] = odd
    folder_of(tmp_path, content)
    (tmp_path / "captions_b.json").write_text(json.dumps(coco([(1, "1.jpg")], [(1, "a dog")])))
    assert "a dog" in captions(tmp_path)


def test_captions_are_cleaned_and_odd_ones_counted(tmp_path):
    texts = {
        "a\r\nfox \t in\u2028snow": "a fox in snow",
        "a\0fox\x1b[31m": "a fox [31m",
        "half \ud83e of a fox": "half of a fox",
        "گربه\u200cها": "گربه\u200cها",
        "a 👨\u200d👩\u200d👧": "a 👨\u200d👩\u200d👧",
        "\ufeffa dog": "a dog",
        "x" * (LONGEST + 1): None,
        "\0\x07": None,
    }
    data, skips = read_coco(folder_of(tmp_path, coco([(1, "1.jpg")], [(1, t) for t in texts])))
    assert data.captions == tuple(clean for clean in texts.values() if clean)
    assert skips.counts == {"caption is longer than 10,000 characters": 1, "caption is empty": 1}


def test_what_stands_twice_is_read_once(tmp_path):
    content = coco([(1, "1.jpg"), (1, "2.jpg"), (1, "1.jpg")], [(1, "a fox"), (1, "a fox")])
    folder_of(tmp_path, content, "1.jpg", "2.jpg")
    (tmp_path / "captions_b.json").write_text(json.dumps(content))
    data, skips = read_coco(tmp_path)
    assert (len(data), data.pictures) == (1, (tmp_path / "1.jpg",))
    assert skips.counts["caption stands twice"] == 3
    assert skips.counts["picture has the id of another one"] == 2


def test_pictures_without_captions_and_the_reverse_are_counted(tmp_path):
    content = coco([(1, "1.jpg"), (2, "2.jpg")], [(1, "a fox"), (9, "a ghost")])
    data, skips = read_coco(folder_of(tmp_path, content, "1.jpg", "2.jpg"))
    assert data.captions == ("a fox",)
    assert skips.names == {
        "picture has no caption": ["2.jpg"],
        "caption is of an unknown picture": ["caption 1"],
    }


@pytest.mark.parametrize(
    "content",
    [b"", b"   ", b"\xef\xbb\xbf", b"null", b"5", b"[]", b"{}", b'"text"', b"{broken",
     b"\x89PNG\r\n", b"[" * 100_000, b'{"images": 5, "annotations": 7}', b'{"a": 1}', b"[1, 2]",
     b"\xff" * 40, json.dumps(FOX).encode()[:-20], b"\x1f\x8b\x08\0"],
)  # fmt: skip
def test_a_file_that_cannot_be_used_is_named_and_another_one_is_read(tmp_path, content):
    folder_of(tmp_path, content, name="captions_b.json")
    with pytest.raises(ValueError, match="Expected are pictures") as error:
        read_coco(tmp_path)
    assert "captions_b.json" in str(error.value)
    data, skips = read_coco(folder_of(tmp_path, FOX))
    assert data.captions == ("a fox",)
    assert skips.names["file of captions cannot be read"][0].startswith("captions_b.json: ")


def test_what_follows_the_json_is_counted(tmp_path):
    data, skips = read_coco(folder_of(tmp_path, json.dumps(FOX, indent=1) + "\n]} trailing"))
    assert data.captions == ("a fox",)
    assert skips.names["file of captions goes on with something else"] == [
        "captions_a.json: ']} trailing'"
    ]


def test_a_folder_or_a_loop_in_place_of_a_file(tmp_path):
    content = coco(
        [(1, "1.jpg"), (2, "folder.jpg"), (3, "loop.jpg"), (4, "gone.jpg")],
        [(n, f"caption {n}") for n in (1, 2, 3, 4)],
    )
    folder_of(tmp_path, content)
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    (tmp_path / "gone.jpg").symlink_to("nowhere.jpg")
    (tmp_path / "captions_train.json").mkdir()
    (tmp_path / "around").symlink_to(tmp_path)
    data, skips = read_coco(tmp_path)
    assert data.captions == ("caption 1",)
    assert skips.counts == {"picture is not a file": 3}


def test_a_named_file_that_is_missing_is_counted(tmp_path):
    folder_of(tmp_path, FOX)
    with pytest.raises(ValueError, match=r"b\.json: No such file"):
        read_coco(tmp_path, [tmp_path / "b.json"])
    with pytest.raises(ValueError, match="Expected are pictures"):
        read_coco(tmp_path / "nowhere")


def test_links_that_the_user_has_made_are_followed(tmp_path):
    picture(tmp_path / "elsewhere" / "1.jpg")
    folder_of(tmp_path / "data", FOX, "other.jpg")
    (tmp_path / "data" / "images").symlink_to(tmp_path / "elsewhere")
    assert captions(tmp_path / "data") == ("a fox",)


# --- other forms ----------------------------------------------------------------------------

LINES = '{"file_name": "1.jpg", "text": "a fox"}\n{"file_name": "sub/2.jpg", "text": "a dog"}\n'


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("metadata.jsonl", LINES),
        ("metadata.jsonl", "\ufeff" + LINES.replace("\n", "\r\n\r\n")),
        ("metadata.jsonl", "\ufeff" + LINES.replace("\n", "\n\ufeff")),
        ("metadata.jsonl", LINES.replace("\n", "\r")),
        ("metadata.jsonl", LINES.replace("\n", "")),
        ("metadata.jsonl", LINES.replace("\n", ",\n")),
        ("metadata.jsonl", LINES.replace("}", ",}")),
        ("metadata.jsonl", LINES.replace('"', "'")),
        ("metadata.jsonl", LINES.replace("a fox", "a\u2028fox").replace("a dog", "a\x85dog")),
        ("metadata.jsonl", LINES.replace("{", "{\n ").replace(", ", ",\n ")),
        ("captions.ndjson", LINES.rstrip()),
        ("captions_all.json", LINES),
        ("data.json", json.dumps([json.loads(line) for line in LINES.splitlines()], indent=1)),
        ("data.json", json.dumps({"1.jpg": "a fox", "sub/2.jpg": ["a dog"]})),
        ("data.json", f"[{LINES.replace(chr(10), ',')}]"),
        ("data.json", '{"1.jpg": {"caption": "a fox"}, "sub/2": {"caption": "a dog"}}'),
        ("data.json", '{"1.jpg": [{"raw": "a fox"}], "sub/2.jpg": [{"raw": "a dog"}]}'),
        ("data.json", '{"image": ["1.jpg", "sub/2.jpg"], "text": ["a fox", "a dog"]}'),
        ("data.json", '{"image": {"0": "1.jpg", "1": "sub/2.jpg"}, '
                      '"text": {"0": "a fox", "1": "a dog"}}'),
        ("data.json", '{"data": [{"image": "1.jpg", "caption": "a fox"}, '
                      '{"image": {"path": "sub\\\\2.jpg"}, "sentences": [{"raw": "a dog"}]}]}'),
        ("metadata.csv", "file_name,text\n1.jpg,a fox\nsub/2.jpg,a dog\n"),
        ("metadata.csv", "\ufeffText ; File_Name\r\na fox;1.jpg\r\na dog;sub/2.jpg\r\n"),
        ("metadata.csv", 'id,image,caption\n1,1.jpg,"a\nfox"\n2,sub/2.jpg,"a dog"'),
        ("metadata.csv", 'image, "caption", id\n1.jpg, "a fox", "1"\nsub/2.jpg, "a dog", "2"'),
        ("captions.tsv", "image\tcaption\n1.jpg\ta fox\nsub/2.jpg\ta dog"),
        ("captions.csv", "1.jpg,a fox\nsub/2.jpg,a dog\n"),
        ("metadata.csv", "sep=;\nfile_name;text\n1.jpg;a fox\nsub/2.jpg;a dog\n"),
        ("metadata.csv", "\n# made by hand\n\nfile_name,text\n1.jpg,a fox\nsub/2.jpg,a dog\n"),
        ("results.csv", "image_name| comment_number| comment\n1.jpg| 0| a fox\nsub/2.jpg|1|a dog"),
        ("captions.txt", "image,caption\n1.jpg,a fox\nsub/2.jpg,a dog\n"),
        ("results.token", "1.jpg#0\ta fox\nsub/2.jpg#1\ta dog\n"),
    ],
)  # fmt: skip
def test_other_forms_of_captions(tmp_path, name, content):
    data, skips = read_coco(folder_of(tmp_path, content, "1.jpg", "sub/2.jpg", name=name))
    assert data.captions == ("a fox", "a dog")
    assert data.pictures == (tmp_path / "1.jpg", tmp_path / "sub" / "2.jpg")
    assert not skips.counts


def test_quotations_inside_quotations(tmp_path):
    for content in ('1.jpg,"the ""fox"", asleep"\n', '1.jpg,"the \\"fox\\", asleep"\n'):
        folder = folder_of(tmp_path, "image,caption\n" + content, name="metadata.csv")
        assert captions(folder) == ('the "fox", asleep',)


def test_broken_lines_cost_themselves(tmp_path):
    content = LINES + '{"file_name": "1.jpg", "text"\nnonsense\n[1]\n{"text": "nobody"}\n' + LINES
    data, skips = read_coco(
        folder_of(tmp_path, content, "1.jpg", "sub/2.jpg", name="metadata.jsonl")
    )
    assert data.captions == ("a fox", "a dog")
    assert skips.counts == {
        "caption is broken": 3,
        "picture has no id or file name": 1,
        "caption stands twice": 2,
    }


def test_a_table_with_odd_rows(tmp_path):
    rows = ["file_name,text", "1.jpg,a fox, a dog, a cat", "1.jpg", "1.jpg,", ",a ghost", "2.jpg,b"]
    rows += ['1.jpg,"never closed', "1.jpg,x"]
    data, skips = read_coco(folder_of(tmp_path, "\n".join(rows), name="metadata.csv"))
    assert data.captions[0] == "a fox, a dog, a cat"
    assert skips.counts == {
        "caption is empty": 2,
        "picture has no id or file name": 1,
        "picture is missing": 1,
    }


@pytest.mark.parametrize("mark", [",", "\t", ";"])
@pytest.mark.parametrize(
    ("first", "second", "read"),
    [
        ('"a fox', "a dog", ("a fox", "a dog")),
        ('"a fox', 'a "dog', ("a fox", 'a "dog')),
        ('a 5" fox', '"a" dog', ('a 5" fox', "a dog")),
        ('"a\nfox"', '"a\n\ndog"', ("a fox", "a dog")),
        ('"a ""fox"""', '" a dog', ('a "fox"', "a dog")),
    ],
)
def test_a_quotation_that_is_never_closed_costs_nothing_else(tmp_path, mark, first, second, read):
    rows = [("file_name", "text"), ("1.jpg", first), ("2.jpg", second), ("3.jpg", "a cat")]
    content = "\n".join(mark.join(row) for row in rows)
    names = ("1.jpg", "2.jpg", "3.jpg")
    assert captions(folder_of(tmp_path, content, *names, name="metadata.csv")) == (*read, "a cat")


def test_a_table_without_the_columns_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"metadata.csv: it has no columns file_name and text"):
        read_coco(folder_of(tmp_path, "a,b\n1,2\n", name="metadata.csv"))


def test_metadata_in_the_folder_of_its_pictures(tmp_path):
    picture(tmp_path / "train" / "1.jpg")
    (tmp_path / "train" / "metadata.jsonl").write_text('{"file_name": "1.jpg", "text": "a fox"}')
    assert read_coco(tmp_path)[0].pictures == (tmp_path / "train" / "1.jpg",)


def test_a_text_file_beside_each_picture(tmp_path):
    for name in ("1.jpg", "2.PNG", "sub/3.webp", "4.jpg", "5.jpg", ".hidden.jpg"):
        picture(tmp_path / name)
    texts = {
        "1.txt": b"a fox\r\nin snow",
        "2.TXT": "\ufeffa dog".encode("utf-16"),
        "sub/3.webp.caption": b"a cat",
        "4.txt": b" \n",
        "9.txt": b"nobody",
    }
    for name, text in texts.items():
        (tmp_path / name).write_bytes(text)
    (tmp_path / "around").symlink_to(tmp_path)
    data, skips = read_coco(tmp_path)
    assert data.captions == ("a fox in snow", "a dog", "a cat")
    assert skips.names == {
        "picture has no caption": ["5.jpg"],
        "caption is empty": ["4.txt"],
        "caption has no picture": ["9.txt"],
    }


def test_names_that_differ_by_case_or_form_only_keep_their_captions(tmp_path):
    forms = [unicodedata.normalize(form, "é") for form in ("NFC", "NFD")]
    for stem in ("a", "A", *forms):
        picture(tmp_path / f"{stem}.jpg")
        (tmp_path / f"{stem}.txt").write_text(f"caption of {stem!a}")
    data, skips = read_coco(tmp_path)
    assert not skips.counts
    assert len(set(data.pictures)) == 4
    for caption, owner in zip(data.captions, data.owners, strict=True):
        assert caption == f"caption of {data.pictures[owner].stem!a}"


def test_odd_files_beside_captions(tmp_path):
    """Other people's JSON, pipes, a text of megabytes, and a name that is no text."""
    for name in ("1.jpg", "2.jpg", "3.jpg"):
        picture(tmp_path / name)
    (tmp_path / "1.txt").write_text("a fox")
    (tmp_path / "2.txt").write_text("a fox " * 5000)
    os.mkfifo(tmp_path / "3.txt")
    (tmp_path / "config.json").write_text('{"a": 1}')
    picture(tmp_path / "x.jpg")
    os.rename(tmp_path / "x.jpg", os.fsencode(tmp_path) + b"/b\xff.jpg")
    data, skips = read_coco(tmp_path)
    assert data.captions == ("a fox",)
    assert skips.names == {
        "file of captions cannot be read": [
            "config.json: it has no captions",
            "3.txt: it is not a file",
        ],
        "caption is longer than 10,000 characters": ["2.txt"],
        "picture has no caption": ["b?.jpg"],
    }
    "".join(skips.sentences()).encode()


def test_an_empty_folder_says_what_is_expected(tmp_path):
    with pytest.raises(ValueError, match="no caption with a picture") as error:
        read_coco(tmp_path)
    assert EXPECTED in str(error.value)


def test_the_same_name_in_two_folders_is_that_of_the_split(tmp_path):
    content = coco([(1, "1.jpg"), (2, "2.jpg")], [(1, "a fox"), (2, "a dog")])
    folder_of(tmp_path, content, "1.jpg", "a/1.jpg", "a/2.jpg")
    data, _ = read_coco(tmp_path)
    assert data.pictures == (tmp_path / "a" / "1.jpg", tmp_path / "a" / "2.jpg")


def jsonl(*records):
    return "\n".join(map(json.dumps, records))


@pytest.mark.parametrize(
    ("written", "there"),
    [
        ("1.jpg", "1.jpeg"),
        ("1.jpeg", "1.JPG"),
        ("1.JPE", "1.jfif"),
        ("a/1.tif", "a/1.tiff"),
        ("C:\\data\\img\\1.jpg", "img/1.jpg"),
        ("/home/me/data/a/b/1.jpg", "a/b/1.jpg"),
        ("../b/1.jpg", "b/1.jpg"),
        (100, "100.jpg"),
    ],
)
def test_more_names_that_mean_the_same_file(tmp_path, written, there):
    folder_of(tmp_path, jsonl({"file_name": written, "text": "a fox"}), there, name="m.jsonl")
    data, skips = read_coco(tmp_path)
    assert data.pictures == (tmp_path / there,)
    assert not skips.sentences()


def test_a_spelling_that_is_there_is_not_another_one(tmp_path):
    rows = jsonl({"file_name": "1.jpg", "text": "one"}, {"file_name": "1.jpeg", "text": "two"})
    folder_of(tmp_path, rows, "1.jpg", "1.jpeg", name="metadata.jsonl")
    data, _ = read_coco(tmp_path)
    assert [path.name for path in data.pictures] == ["1.jpg", "1.jpeg"]


def test_a_path_does_not_lead_out_by_its_end(tmp_path):
    picture(tmp_path / "1.jpg")
    inside = tmp_path / "in"
    inside.mkdir()
    (inside / "metadata.jsonl").write_text(jsonl({"file_name": "x/../../1.jpg", "text": "a"}))
    with pytest.raises(ValueError, match="picture is missing"):
        read_coco(inside)


@pytest.mark.parametrize("name", ["metadata.jsonl", "metadata.csv"])
def test_metadata_in_folders_of_folders(tmp_path, name):
    content = (
        "file_name,text\n1.jpg,a fox"
        if name.endswith("csv")
        else jsonl({"file_name": "1.jpg", "text": "a fox"})
    )
    picture(tmp_path / "x" / "y" / "1.jpg")
    (tmp_path / "x" / "y" / name).write_text(content)
    os.symlink(tmp_path, tmp_path / "x" / "loop")
    assert captions(tmp_path) == ("a fox",)


def test_parquet_of_other_peoples_types(tmp_path):
    picture(tmp_path / "1.jpg")
    names = pa.array([b"1.jpg"]).dictionary_encode()
    for texts in ([b"a fox"], [["a fox"]], [{"raw": "a fox"}]):
        pq.write_table(pa.table({"image": names, "text": texts}), tmp_path / "metadata.parquet")
        assert captions(tmp_path) == ("a fox",)


def test_a_parquet_file_as_our_own_bulk_rendering_writes_it(tmp_path):
    picture(tmp_path / "1.jpg")
    rows = {
        "file_name": ["1.jpg", "2.jpg", None],
        "prompt": ["a fox", "a dog", "a cat"],
        "x": [1] * 3,
    }
    pq.write_table(pa.table(rows), tmp_path / "metadata.parquet")
    data, skips = read_coco(tmp_path)
    assert data.captions == ("a fox",)
    assert len(skips.sentences()) == 2
    (tmp_path / "metadata.parquet").write_bytes(b"PAR1 and nothing else")
    with pytest.raises(ValueError, match="file of captions cannot be read"):
        read_coco(tmp_path)


@pytest.mark.parametrize(
    ("content", "read"),
    [
        ({"caption": "a fox", "url": "x", "width": 3}, "a fox"),
        ({"Text": "a fox"}, "a fox"),
        ({"captions": ["a fox", "a dog"]}, "a fox"),
        ("a fox", "a fox"),
        ({"tags": ["fox"]}, None),
        ([], None),
        (5, None),
    ],
)
def test_a_json_file_beside_each_picture(tmp_path, content, read):
    for name in ("1", "2"):
        picture(tmp_path / "a" / f"{name}.jpg")
    (tmp_path / "a" / "1.json").write_text(json.dumps(content))
    (tmp_path / "a" / "2.txt").write_text("a dog")
    assert captions(tmp_path) == ((read, "a dog") if read else ("a dog",))


def test_a_caption_of_invisible_characters_is_empty(tmp_path):
    rows = [{"file_name": "1.jpg", "text": text} for text in ("\u200b", "\u3000 \u2060", "a fox")]
    folder_of(tmp_path, jsonl(*rows), name="metadata.jsonl")
    data, skips = read_coco(tmp_path)
    assert data.captions == ("a fox",)
    assert skips.counts["caption is empty"] == 2


def test_a_file_with_several_names_is_one_picture(tmp_path):
    """A link to the folder itself made every caption stand twice, with a picture each."""
    rows = jsonl(*({"file_name": f"{at}1.jpg", "text": at or "here"} for at in ("", "loop/", "x/")))
    folder_of(tmp_path, rows, "1.jpg", name="metadata.jsonl")
    os.symlink(tmp_path, tmp_path / "loop")
    (tmp_path / "x").mkdir()
    os.link(tmp_path / "1.jpg", tmp_path / "x" / "1.jpg")
    data, _ = read_coco(tmp_path)
    assert data.captions == ("here", "loop/", "x/")
    assert data.owners == (0, 0, 0)
