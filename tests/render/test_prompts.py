"""Files of prompts as people write them."""

import errno
import json
import math
import os
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sage.render import prompts as prompts_module
from sage.render.prompts import ID_CHARS, Prompt, Refused, read_prompts

FOX, SNOW = "a fox in the snow", "snö på stranden"


def read(path, **options):
    return list(read_prompts(path, **options))


def rows(path, **options):
    """What was read, in short: (id, text) or (row, sentence)."""
    return [
        (r.id, r.text) if isinstance(r, Prompt) else (r.row, r.error) for r in read(path, **options)
    ]


def written(tmp_path, name, data):
    path = tmp_path / name
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def parquet(tmp_path, columns, **options):
    path = tmp_path / "p.parquet"
    pq.write_table(pa.table(columns), path, **options)
    return path


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_text_file_has_a_prompt_a_line(tmp_path, encoding, end):
    path = written(tmp_path, "p.txt", end.join([FOX, "", f"  {SNOW} ", " "]).encode(encoding))
    assert read(path, seed=5) == [
        Prompt(1, "1", FOX, 5, named=False),
        Prompt(3, "3", SNOW, 7, named=False),
    ]


def test_a_line_separator_inside_a_prompt_is_no_new_line(tmp_path):
    path = written(tmp_path, "p.txt", "a fox\u2028in the snow\na dog")
    assert rows(path) == [("1", FOX), ("2", "a dog")]


def test_a_line_that_is_not_utf8_stops_nothing(tmp_path):
    path = written(tmp_path, "p.txt", b"a fox\nan \xe9clair\na dog\n")
    assert rows(path) == [("1", "a fox"), (2, "The prompt is not valid UTF-8."), ("3", "a dog")]


def test_a_cut_utf16_file_keeps_its_good_lines(tmp_path):
    path = written(tmp_path, "p.txt", "a fox\na dog\n".encode("utf-16")[:-1])
    assert rows(path)[0] == ("1", "a fox")


def test_a_table_has_its_columns_in_any_order_and_writing(tmp_path):
    text = "Negative Prompt,Seed,PROMPT,ID,other\nrain,7,a fox,x,1\n,,a dog,y,2\n"
    assert read(written(tmp_path, "p.csv", "\ufeff" + text)) == [
        Prompt(1, "x", "a fox", 7, "rain"),
        Prompt(2, "y", "a dog", 1),
    ]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_a_table_may_be_separated_as_spreadsheets_do(tmp_path, delimiter):
    text = f"id{delimiter}prompt\n1{delimiter}a fox\n"
    assert rows(written(tmp_path, "p.csv", text)) == [("1", "a fox")]


def test_quoted_cells_hold_commas_and_line_ends(tmp_path):
    text = 'id, prompt\n1, "a fox,\nin ""deep"" snow"\n\n2,a 5" pipe\n'
    assert rows(written(tmp_path, "p.csv", text)) == [
        ("1", 'a fox, in "deep" snow'),
        ("2", 'a 5" pipe'),
    ]


def test_a_quotation_mark_that_is_not_closed_swallows_nothing(tmp_path):
    lines = "".join(f"{n},a dog\n" for n in range(200))
    for rest in ("a,a fox\n", lines):
        found = rows(written(tmp_path, "p.csv", 'id,prompt\n0,"a fox\n' + rest.replace("0,", "z,")))
        assert found[0] == (1, "A quotation mark is opened and not closed.")
        assert len(found) == 1 + rest.count("\n")


def test_a_row_with_too_many_cells_is_refused_and_a_short_one_is_empty(tmp_path):
    found = rows(written(tmp_path, "p.csv", "id,prompt\n1,a fox,in the snow\n2\n3,a dog\n"))
    assert found == [
        (1, "The row has 3 cells; allowed are 2."),
        (2, "The prompt is empty."),
        ("3", "a dog"),
    ]


def test_columns_may_have_other_names(tmp_path):
    path = written(tmp_path, "p.csv", "key,caption\nk,a fox\n")
    assert rows(path, columns={"prompt": "caption", "id": "key"}) == [("k", "a fox")]
    with pytest.raises(ValueError, match="There is no column 'caption'; allowed are id, prompt"):
        rows(path, columns={"caption": "prompt"})
    with pytest.raises(ValueError, match="gives id, prompt the same column"):
        rows(path, columns={"id": "Caption", "prompt": "caption"})
    # The text is the id, too: another name takes a column away from its usual one.
    assert rows(written(tmp_path, "q.csv", "prompt\nfox\n"), columns={"prompt": "prompt"}) == [
        ("row-1", "fox")
    ]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("p.csv", "prompt,seed\na fox,1\n"),
        ("p.jsonl", '{"prompt": "a fox", "seed": 1}\n"a dog"\n'),
        ("p.parquet", ""),
    ],
)
def test_a_column_that_somebody_names_has_to_be_there(tmp_path, name, text):
    """A slip would otherwise go unseen: all seeds would be others."""
    path = written(tmp_path, name, text) if text else parquet(tmp_path, {"prompt": ["a fox"]})
    with pytest.raises(ValueError, match=r"the columns prompt.*; a column 'sede' is needed"):
        rows(path, columns={"seed": "sede"})
    with pytest.raises(ValueError, match="leave out --columns"):
        rows(written(tmp_path, "p.txt", "a fox"), columns={"seed": "sede"})


def test_a_single_column_is_separated_as_the_ending_says(tmp_path):
    text = "prompt\na fox, red; small\n"
    assert rows(written(tmp_path, "p.tsv", text)) == [("row-1", "a fox, red; small")]
    assert rows(written(tmp_path, "p.csv", text))[0][1].startswith("The row has 2 cells")


def test_the_line_that_names_the_columns_may_be_odd(tmp_path):
    text = '\n \r\nid,"Prompt",seed,"a\nnote"\n1,a fox,7,x\n'
    assert read(written(tmp_path, "p.csv", text)) == [Prompt(1, "1", "a fox", 7)]
    for line in ("x" * 200_000, 'id,"prompt', "\0"):
        with pytest.raises(ValueError, match=r"p\.csv"):
            rows(written(tmp_path, "p.csv", line + "\n1,a fox\n"))


@pytest.mark.parametrize("text", ["a,b\n1,2\n", "1,a fox\n2,a dog\n", ""])
def test_a_table_without_prompts_is_refused_as_a_whole(tmp_path, text):
    with pytest.raises(ValueError, match="prompt"):
        rows(written(tmp_path, "p.csv", text) if text else written(tmp_path, "prompts.csv", ""))


def test_json_lines_are_objects_or_texts(tmp_path):
    lines = [
        '{"id": 100, "prompt": "a fox", "seed": 7.0, "negative_prompt": null}',
        '"a dog"',
        "",
        "{oops",
        "[1]",
        '{"prompt": NaN}',
        '{"prompt": 7}',
        '{"prompt": "a \\ud800 cat"}',
        '{"prompt": "a cat", "id": 100.0}',
        "[" * 100_000,
    ]
    found = read(written(tmp_path, "p.jsonl", "\n".join(lines)), seed=1)
    assert found[:2] == [Prompt(1, "100", "a fox", 7), Prompt(2, "row-2", "a dog", 2, named=False)]
    assert [r.error[:36] for r in found[2:]] == [
        "The line is not JSON: Expecting prop",
        "The line is '[1]'; an object is need",
        "The prompt is empty.",
        "The prompt is '7'; a text is needed.",
        "The prompt is not valid UTF-8.",
        "The id '100' is also that of row 1.",
        found[-1].error[:36],
    ]
    assert found[-1].error.startswith("The line is not JSON")


def test_parquet_holds_numbers_for_ids_and_gaps_in_seeds(tmp_path):
    columns = {"id": [1.0, 2.0, None], "prompt": ["a fox", None, "a cat"], "seed": [7, None, None]}
    assert read(parquet(tmp_path, columns)) == [
        Prompt(1, "1", "a fox", 7),
        Refused(2, "2", "", "The prompt is empty."),
        Prompt(3, "row-3", "a cat", 2, named=False),
    ]


@pytest.mark.parametrize(
    "kind", [pa.large_string(), pa.binary(), pa.dictionary(pa.int8(), pa.utf8())]
)
def test_parquet_may_hold_texts_in_any_type(tmp_path, kind):
    texts = pa.array(["a fox", "a dog"]).cast(kind) if kind != pa.dictionary(
        pa.int8(), pa.utf8()) else pa.array(["a fox", "a dog"]).dictionary_encode()  # fmt: skip
    found = rows(parquet(tmp_path, {"prompt": texts, "id": texts}))
    assert found == [("a fox", "a fox"), ("a dog", "a dog")]


def test_a_damaged_block_of_parquet_costs_its_own_rows(tmp_path):
    path = parquet(
        tmp_path,
        {"id": [f"i{n}" for n in range(30)], "prompt": [f"a fox number {n}" for n in range(30)]},
        row_group_size=10,
        compression="zstd",
    )
    column = pq.ParquetFile(path).metadata.row_group(1).column(1)
    data = bytearray(path.read_bytes())
    start = column.dictionary_page_offset or column.data_page_offset
    for n in range(start, start + column.total_compressed_size):
        data[n] ^= 0xFF
    path.write_bytes(data)
    found = read(path)
    assert [r.row for r in found] == list(range(1, 31))
    assert [isinstance(r, Prompt) for r in found] == [True] * 10 + [False] * 10 + [True] * 10
    assert all(r.error.startswith("Its row group is damaged") for r in found[10:20])


def test_a_file_that_cannot_be_read_at_all_is_refused_in_a_sentence(tmp_path):
    with pytest.raises(ValueError, match="cannot be read as Parquet"):
        rows(written(tmp_path, "p.parquet", b"PAR1 nonsense"))
    with pytest.raises(ValueError, match=r"ends in '.docx'; allowed are .txt, .csv"):
        rows(written(tmp_path, "p.docx", b""))
    with pytest.raises(ValueError, match="There is no file"):
        rows(tmp_path / "p.txt")
    with pytest.raises(ValueError, match="is a folder; give one file"):
        rows(tmp_path)
    with pytest.raises(ValueError, match="cannot be read: File name too long"):
        rows(tmp_path / f"{'x' * 300}.txt")
    os.mkfifo(tmp_path / "pipe.txt")
    with pytest.raises(ValueError, match="is a pipe or device"):
        rows(tmp_path / "pipe.txt")


def test_a_disk_that_fails_while_it_is_read_is_a_sentence(tmp_path, monkeypatch):
    def fails(path, names):
        yield 1, {"prompt": "a fox"}
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setitem(prompts_module._READERS, ".txt", fails)
    with pytest.raises(ValueError, match=r"p\.txt cannot be read: Input/output error"):
        rows(written(tmp_path, "p.txt", "a fox"))


@pytest.mark.parametrize("seed", ["abc", "-1", "1.5", "1e99", "inf", "１２"])
def test_a_seed_that_is_none_is_refused(tmp_path, seed):
    (found,) = read(written(tmp_path, "p.csv", f"prompt,seed\na fox,{seed}\n"))
    assert found.error.startswith("The seed is ")


@pytest.mark.parametrize(
    ("seed", "value"), [("7", 7), (" 7.0 ", 7), ("", 3), ("2147483647", 2**31 - 1)]
)
def test_a_seed_may_be_written_in_several_ways(tmp_path, seed, value):
    (found,) = read(written(tmp_path, "p.csv", f"prompt,seed\na fox,{seed}\n"), seed=3)
    assert found.seed == value


def test_seeds_count_on_from_the_largest(tmp_path):
    found = read(written(tmp_path, "p.txt", "a\nb\nc"), seed=2**31 - 2)
    assert [r.seed for r in found] == [2**31 - 2, 2**31 - 1, 0]


def test_what_is_too_long_is_refused_with_its_length(tmp_path):
    lines = [{"prompt": "x" * 301}, {"prompt": "x" * 300}, {"prompt": "a", "id": "i" * 1001},
             {"prompt": "a", "negative_prompt": "x" * 301}]  # fmt: skip
    found = read(written(tmp_path, "p.jsonl", "\n".join(map(json.dumps, lines))))
    assert found[0].error == "The prompt has 301 characters; allowed are 1 to 300."
    assert isinstance(found[1], Prompt)
    assert found[2].error == f"The id has 1001 characters; allowed are 1 to {ID_CHARS}."
    assert found[3].error == "The negative prompt has 301 characters; allowed are 1 to 300."


def test_every_row_is_there_once_with_an_id_of_its_own(tmp_path):
    text = "id,prompt\na,x\na,y\n,z\nrow-3,w\n"
    found = read(written(tmp_path, "p.csv", text))
    assert [r.row for r in found] == [1, 2, 3, 4]
    assert len({r.id for r in found if isinstance(r, Prompt)}) == 2
    assert found[1].error == "The id 'a' is also that of row 1."
    assert found[3].error == "The id 'row-3' is also that of row 3."
    found = rows(written(tmp_path, "p.csv", "id,prompt\nrow-2,x\n,y\n"))
    assert found == [("row-2", "x"), ("row-2+", "y")]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("p.txt", "", []),
        ("p.txt", "\ufeff\r\n \t\r\n", []),
        ("p.jsonl", "\r\n\n", []),
        ("p.csv", "prompt\r\n", []),
        ("p.csv", '\ufeff"prompt"\r\na fox\r\n', [("row-1", "a fox")]),
        ("p.jsonl", '\ufeff{"prompt": "a fox", "id": null}\r\n', [("row-1", "a fox")]),
        ("p.jsonl", '{"prompt": "a fox"}{"prompt": "a dog"}', [(1, "The line is not JSON")]),
        ("p.jsonl", '{"prompt": "a fo', [(1, "The line is not JSON")]),
        ("p.jsonl", '{"prompt": ["a fox"]}', [(1, "The prompt is")]),
        ("p.jsonl", '{"prompt": "a fox", "negative_prompt": 3}', [(1, "The negative prompt is")]),
        ("p.jsonl", '{"text": "a fox"}\n"a dog"', [(1, "The prompt is em"), ("row-2", "a dog")]),
        ("p.jsonl", '{"prompt": "a fox", "id": ["x"]}', [(1, "The id is \"['x']\"; a text or a")]),
        ("p.jsonl", '{"prompt": "a fox", "id": {"x": 1}}', [(1, "The id is ")]),
        ("p.jsonl", '{"prompt": "a fox", "id": true}', [(1, "The id is 'True'; a text or a n")]),
        ("p.jsonl", '{"prompt": {"text": "a fox"}}', [(1, "The prompt is ")]),
        ("p.jsonl", '{"prompt": "a", "PROMPT": null}', [(1, "The line has one column twice")]),
        ("p.csv", "sep=;\r\nid;prompt\r\n1;a fox, red\r\n", [("1", "a fox, red")]),
        ("p.csv", "\ufeffSEP=|\n\nid|prompt\n1|a fox\n", [("1", "a fox")]),
        ("p.csv", "id,prompt\n1,a fox,,\n2,a dog, \n", [("1", "a fox"), ("2", "a dog")]),
        ("p.csv", "id;prompt;;\n1;a fox;;\n", [("1", "a fox")]),
        ("p.csv", 'id;prompt\r\n"1";"a\r\nfox; a dog"\r\n', [("1", "a fox; a dog")]),
        ("p.jsonl", '{"prompt": "a fox", "id": "\\udcff"}', [(1, "The id is not valid UTF-8.")]),
        ("p.csv", "prompt,id\na fox,１\na dog,1\n", [("１", "a fox"), ("1", "a dog")]),
    ],
)
def test_odd_files_have_their_rows_or_their_sentence(tmp_path, name, content, words):
    found = rows(written(tmp_path, name, content))
    assert len(found) == len(words)
    for (place, text), (wanted_place, wanted) in zip(found, words, strict=True):
        assert place == wanted_place
        assert text.startswith(wanted)


@pytest.mark.parametrize(
    "seed", [-1, 1.5, "x", True, [1], {"a": 1}, 2**31, 10**400, float("nan"), float("inf")]
)
def test_a_seed_of_another_type_is_refused_or_counted_on(tmp_path, seed):
    line = json.dumps({"prompt": "a fox", "seed": seed})
    (found,) = read(written(tmp_path, "p.jsonl", line), seed=9)
    if isinstance(seed, float) and math.isnan(seed):  # a gap in a column of numbers
        assert found.seed == 9
    else:
        assert found.error.startswith("The seed is ")


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("p.csv", "prompt,prompt\na fox,a dog\n", "has 2 columns 'prompt'; rename all but one"),
        ("p.csv", "Prompt,id,prompt,prompt \na,1,b,c\n", "has 3 columns 'prompt'; rename"),
        ("p.csv", "prompt,Id,ID\na fox,1,2\n", "has 2 columns 'id'; rename"),
        ("p.csv", "caption\na fox\n", "a column 'prompt' is needed; --columns prompt=NAME reads"),
        ("p.jsonl", '{"text": "a"}\n{"t": 1}\n', "has the columns text, t; a column 'prompt' is"),
    ],
)
def test_columns_that_are_missing_or_there_twice_are_a_sentence(tmp_path, name, text, words):
    with pytest.raises(ValueError, match=words):
        rows(written(tmp_path, name, text))


def test_parquet_of_other_peoples_types(tmp_path):
    """What pandas, Arrow and databases write for ids, prompts and seeds."""
    big = 2**63 - 1
    columns = {
        "id": pa.array([big, 7, None, 8, 9], pa.int64()),
        "prompt": pa.array(["a fox", None, "a cat", "a dog", "an owl"], pa.large_string()),
        "seed": pa.array([2**31 - 1, 1, None, 2**32 - 1, 3], pa.uint32()),
        "negative_prompt": pa.nulls(5),
    }
    assert read(parquet(tmp_path, columns), seed=5) == [
        Prompt(1, str(big), "a fox", 2**31 - 1),
        Refused(2, "7", "", "The prompt is empty."),
        Prompt(3, "row-3", "a cat", 7, named=False),
        Refused(4, "8", "a dog", "The seed is 4294967295; allowed are 0 to 2147483647."),
        Prompt(5, "9", "an owl", 3),
    ]
    columns = {
        "prompt": pa.array(["a fox", "a dog", "a cat"]).dictionary_encode(),
        "id": pa.array(["x", "y", "x"]).dictionary_encode(),
        "seed": pa.array([Decimal("7"), Decimal("7.5"), None], pa.decimal128(5, 1)),
    }
    assert read(parquet(tmp_path, columns)) == [
        Prompt(1, "x", "a fox", 7),
        Refused(2, "y", "a dog", "The seed is 7.5; a whole number is needed."),
        Refused(3, "row-3", "a cat", "The id 'x' is also that of row 1."),
    ]
    twice = pa.table([["a"], ["b"]], names=["prompt", "Prompt"])
    pq.write_table(twice, tmp_path / "twice.parquet")
    with pytest.raises(ValueError, match="has 2 columns 'prompt'; rename all but one"):
        read(tmp_path / "twice.parquet")


def test_parquet_without_rows_or_with_nested_texts(tmp_path):
    assert read(parquet(tmp_path, {"prompt": pa.array([], pa.string())})) == []
    (found,) = read(parquet(tmp_path, {"prompt": [["a fox"]]}))
    assert found.error.endswith("['a fox']\"; a text is needed.")
    with pytest.raises(ValueError, match="has the columns caption; a column 'prompt' is needed"):
        read(parquet(tmp_path, {"caption": ["a fox"]}))
