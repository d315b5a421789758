"""A Space is checked and staged without an account or a network; the hub is a recorder."""

import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

from sage import deploy

ROOT = Path(__file__).resolve().parent.parent
HEAD = {
    "title": "T",
    "emoji": "x",
    "colorFrom": "red",
    "colorTo": "blue",
    "sdk": "gradio",
    "sdk_version": "6.31.0",
    "python_version": "3.12",
    "app_file": "app.py",
}
README = "---\n" + "".join(f'{k}: "{v}"\n' for k, v in HEAD.items()) + "---\n\n# T\n"
REQUIREMENTS = "torch>=2.8,<2.14\ngradio>=6.31,<7\n"


class Hub:
    """Remembers what it was asked; uploads are copied, because the folder is a temporary one."""

    def __init__(self, error=None):
        self.error, self.made, self.uploaded, self.settings = error, [], {}, {}

    def create_repo(self, repo, **settings):
        if self.error:
            raise self.error
        self.made.append((repo, settings))

    def upload_folder(self, folder_path, **settings):
        paths = (p for p in Path(folder_path).rglob("*") if p.is_file())
        self.uploaded = {p.relative_to(folder_path).as_posix(): p.read_bytes() for p in paths}
        self.settings = settings


@pytest.fixture
def checkout(tmp_path):
    """A small committed tree that would run as a Space."""
    files = {
        "README.md": README,
        "requirements.txt": REQUIREMENTS,
        "app.py": "print()\n",
        "sage/__init__.py": "",
        "assets/icon.png": "png",
        "tests/test_x.py": "",
        ".gitattributes": "* text=auto\n",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    commit(tmp_path)
    return tmp_path


def git(folder, *arguments):
    subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True)


def commit(folder):
    who = ["-c", "user.name=Test", "-c", "user.email=test@example.org"]
    git(folder, *who, "commit", "-q", "-m", "A small tree")


@pytest.fixture
def at(checkout, monkeypatch):
    monkeypatch.setattr(deploy, "ROOT", checkout)
    return checkout


def test_this_repository_would_run_as_a_space():
    tree = deploy.Tree.of(ROOT)
    assert deploy.check(deploy.Tree(tree.root, tree.sizes)) == []
    assert {"app.py", "README.md", "requirements.txt", deploy.THUMBNAIL} <= set(tree.sizes)
    assert not [
        path
        for path in tree.sizes
        if path.startswith(("tests/", ".ci/", ".github/", ".py", ".pre"))
    ]


def test_the_head_preloads_the_models_files_at_their_pinned_commits():
    from sage.jobs.models import stable_diffusion_v1_5

    spec = stable_diffusion_v1_5()
    revisions = {spec.source: spec.revision, spec.clip_source: spec.clip_revision}
    head = deploy.read_head((ROOT / "README.md").read_text("utf-8"))
    lines = [
        f"{repo} {','.join(files)} {revisions[repo]}" for repo, files in deploy.PRELOADED.items()
    ]
    assert head["preload_from_hub"] == lines


def test_a_dry_run_lists_and_uploads_nothing(at, capsys):
    assert deploy.main(["--dry-run"], api=pytest.fail) == 0
    said = capsys.readouterr().out
    assert "app.py" in said
    assert "tests/test_x.py" not in said
    assert "5 files" in said
    assert "nothing was uploaded" in said


def test_a_dry_run_needs_no_gradio_no_torch_and_no_hub():
    code = "import sys, sage.deploy; print(*sys.modules)"
    run = [sys.executable, "-c", code]
    loaded = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert not {"gradio", "diffusers", "huggingface_hub"} & set(loaded.split())


def test_an_upload_mirrors_the_committed_tree(at):
    hub = Hub()
    assert deploy.main(["--repo", "me/space", "--private"], api=lambda: hub) == 0
    repo, settings = hub.made[0]
    assert repo == "me/space"
    assert settings == {
        "repo_type": "space",
        "space_sdk": "gradio",
        "private": True,
        "exist_ok": True,
    }
    assert hub.settings["delete_patterns"] == ["*"]
    assert hub.settings["commit_message"] == "A small tree"
    files = {"README.md", "requirements.txt", "app.py", "sage/__init__.py", "assets/icon.png"}
    assert set(hub.uploaded) == files | {".gitattributes"}
    assert hub.uploaded[".gitattributes"] == b"*.png filter=lfs diff=lfs merge=lfs -text\n"
    head = deploy.read_head(hub.uploaded["README.md"].decode())
    assert head["thumbnail"].startswith("https://huggingface.co/spaces/me/space/resolve/main/")
    assert head["title"] == "T"


def test_what_is_not_committed_stops_the_upload(at, capsys):
    (at / "app.py").write_text("changed")
    (at / "new.py").write_text("new")
    assert deploy.main(["--repo", "me/space"], api=pytest.fail) == 1
    said = capsys.readouterr().err
    assert "Not committed, so not uploaded: app.py, new.py." in said
    assert "nothing was uploaded" in said


def test_large_files_must_be_of_a_kind_that_goes_through_lfs():
    sizes = {"README.md": 1, "requirements.txt": 1, "app.py": 1}
    large = sizes | {"data.csv": 11 * 2**20, "weights.safetensors": 11 * 2**20}
    (sentence,) = deploy.check_files(deploy.Tree(ROOT, large))
    assert sentence.startswith("data.csv has 11.0 MB")
    assert deploy.check_files(deploy.Tree(ROOT, {}))[0] == "README.md is missing."


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"title": None}, "lacks 'title'"),
        ({"hardware": "t4-small"}, "'hardware' is no key"),
        ({"colorTo": "mauve"}, "allowed are blue"),
        ({"sdk": "docker"}, "gradio Space"),
        ({"app_file": "main.py"}, "not among the files"),
        ({"short_description": "x" * 61}, "60 characters"),
        ({"suggested_hardware": "h200"}, "unknown"),
        ({"thumbnail": "page.png"}, "https address"),
        ({"preload_from_hub": ["me/model"]}, "need 'repo file,file commit'"),
        ({"preload_from_hub": ["me/model config.json main"]}, "need 'repo file,file commit'"),
    ],
)
def test_a_bad_head_is_named(change, words):
    (sentence,) = deploy.check_head(HEAD | change, ["app.py"])
    assert words in sentence


@pytest.mark.parametrize("readme", ["# No head", "---\na: [\n---\n", "---\njust text\n---\n"])
def test_a_readme_without_a_head_is_named(readme):
    with pytest.raises(ValueError, match="front matter"):
        deploy.read_head(readme)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("torch==2.13.0\n", "ZeroGPU takes"),
        ("gradio<6.31\ntorch\n", "front matter 6.31.0"),
        ("-r other.txt\ntorch\n", "no plain requirement"),
        ("# nothing\n", "does not name torch"),
    ],
)
def test_requirements_that_a_space_refuses_are_named(text, words):
    (sentence,) = deploy.check_requirements(text, HEAD)
    assert words in sentence


def test_a_python_that_zerogpu_lacks_is_named():
    (sentence,) = deploy.check_requirements(REQUIREMENTS, HEAD | {"python_version": "3.11"})
    assert "ZeroGPU has 3.12 and 3.10" in sentence


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (LocalTokenNotFoundError("no token"), "hf auth login"),
        (OSError("name resolution failed\nmore"), "could not be reached: name resolution failed"),
        (
            HfHubHTTPError(
                "403 Forbidden\nmore",
                response=httpx.Response(403, request=httpx.Request("POST", "https://hub")),
            ),
            "refused me/space: 403 Forbidden",
        ),
    ],
)
def test_what_the_hub_says_no_to_is_one_sentence(at, capsys, error, words):
    assert deploy.main(["--repo", "me/space"], api=lambda: Hub(error)) == 1
    said = capsys.readouterr().err
    assert words in said
    assert "more" not in said


def test_the_command_line_wants_a_space_or_a_dry_run(capsys):
    for arguments in ([], ["--repo", "no-owner"], ["--repo", "a/b/c"], ["--rpo", "a/b"]):
        with pytest.raises(SystemExit):
            deploy.main(arguments)
    assert "OWNER/NAME" in capsys.readouterr().err


def test_a_folder_without_git_is_explained(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(deploy, "ROOT", tmp_path)
    assert deploy.main(["--dry-run"]) == 1
    assert "git cannot read" in capsys.readouterr().err
