"""Checks that the committed tree would run as a Hugging Face Space, and uploads it.

    python -m sage.deploy --dry-run            needs no account and no network
    python -m sage.deploy --repo OWNER/NAME    uploads with the token of `hf auth login`

Knows the rules of a Space (front matter, file sizes, requirements) and git; nothing of models
beyond the names of their files, and nothing of the page.
"""

import argparse
import io
import re
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import yaml
from packaging.requirements import InvalidRequirement, Requirement

ROOT = Path(__file__).resolve().parent.parent
LIMIT_BYTES = 10 * 2**20  # above it the hub takes a file only through LFS or Xet
LEFT_OUT = (
    *("tests/", ".ci/", ".github/", ".pytest.ini", ".ruff.toml", ".gitignore", ".gitattributes"),
    *(".pre-commit-config.yaml", ".pyrightconfig.json"),
)
BINARY = {".safetensors", ".png", ".webp", ".jpg", ".gif", ".ttf", ".woff2", ".npz", ".bin"}
THUMBNAIL = "assets/ui/page.png"

# https://huggingface.co/docs/hub/spaces-config-reference
HEAD_KEYS = {
    *("title", "emoji", "colorFrom", "colorTo", "sdk", "python_version", "sdk_version"),
    *("suggested_hardware", "suggested_storage", "app_file", "app_build_command", "app_port"),
    *("base_path", "fullWidth", "header", "short_description", "models", "datasets", "tags"),
    *("thumbnail", "pinned", "hf_oauth", "hf_oauth_scopes", "hf_oauth_expiration_minutes"),
    *("hf_oauth_authorized_org", "disable_embedding", "startup_duration_timeout"),
    *("custom_headers", "preload_from_hub", "license"),
}
NEEDED_KEYS = ("title", "emoji", "colorFrom", "colorTo", "sdk", "sdk_version", "app_file")
COLOURS = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}
HARDWARE = re.compile(
    r"cpu-(basic|upgrade)|zero-a10g|t4-(small|medium)|l4x[14]|l40sx[148]|"
    r"a10g-(small|large|largex[24])|a100-large|a100x[48]"
)
# What ZeroGPU offers: https://huggingface.co/docs/hub/spaces-zerogpu (read in August 2026).
ZERO_GPU_TORCH = ("2.8.0", "2.9.1", "2.10.0", "2.11.0")
ZERO_GPU_PYTHON = ("3.12", "3.10")

# Files that the loaders read of the hub's models: safetensors, configurations and vocabularies.
PRELOADED: dict[str, tuple[str, ...]] = {
    "stable-diffusion-v1-5/stable-diffusion-v1-5": (
        "model_index.json",
        "feature_extractor/preprocessor_config.json",
        "safety_checker/config.json",
        "safety_checker/model.safetensors",
        "scheduler/scheduler_config.json",
        "text_encoder/config.json",
        "text_encoder/model.safetensors",
        "tokenizer/merges.txt",
        "tokenizer/special_tokens_map.json",
        "tokenizer/tokenizer_config.json",
        "tokenizer/vocab.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors",
    ),
    "openai/clip-vit-large-patch14": (
        "config.json",
        "merges.txt",
        "model.safetensors",
        "preprocessor_config.json",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "vocab.json",
    ),
}


@dataclass(frozen=True)
class Tree:
    """The files that a Space would get.

    Attributes:
        root: The checkout.
        sizes: Bytes of each file, by its path with forward slashes.
        changed: Tracked files that differ from the last commit, and files git does not know.
    """

    root: Path
    sizes: dict[str, int]
    changed: tuple[str, ...] = ()

    @classmethod
    def of(cls, root: Path) -> "Tree":
        """The committed files of a checkout, less what a Space does not run.

        Raises:
            ValueError: If the folder is no git checkout with a commit.
        """
        listing = _git(root, "ls-tree", "-r", "-l", "-z", "HEAD").split("\0")
        entries = [line.split(None, 4) for line in listing if line]  # mode, kind, id, size, path
        sizes = {path: int(size) for *_, size, path in entries if _is_wanted(path)}
        status = _git(root, "status", "--porcelain", "-z").split("\0")
        return cls(root, sizes, tuple(line[3:] for line in status if line[3:]))

    def text(self, path: str) -> str:
        """A file's committed text; empty if there is none."""
        return _git(self.root, "show", f"HEAD:{path}") if path in self.sizes else ""


def read_head(readme: str) -> dict[str, Any]:
    """The front matter of a README.

    Raises:
        ValueError: If there is none or it is not YAML.
    """
    match = re.match(r"---\n(.*?\n)---\n", readme, re.DOTALL)
    if match is None:
        raise ValueError(
            "README.md has no front matter: it must begin with a line of three dashes."
        )
    try:
        head = yaml.safe_load(match.group(1))
    except yaml.YAMLError as error:
        raise ValueError(f"README.md's front matter is not YAML: {error}") from error
    if not isinstance(head, dict):
        raise ValueError("README.md's front matter holds no keys.")
    return head


def check_head(head: Mapping[str, Any], files: Iterable[str]) -> list[str]:
    """What is wrong with a front matter, as sentences; the files are those of the Space."""
    files = set(files)
    wrong = [f"The front matter lacks {key!r}." for key in NEEDED_KEYS if not head.get(key)]
    wrong += [f"{key!r} is no key of a Space." for key in head if key not in HEAD_KEYS]
    wrong += [
        f"{key} is {head[key]!r}; allowed are {', '.join(sorted(COLOURS))}."
        for key in ("colorFrom", "colorTo")
        if key in head and head[key] not in COLOURS
    ]
    if head.get("sdk") not in (None, "gradio"):
        wrong.append(f"sdk is {head['sdk']!r}; this page is a gradio Space.")
    if head.get("app_file") not in {None, *files}:
        wrong.append(f"app_file is {head['app_file']!r}, which is not among the files.")
    if len(str(head.get("short_description", ""))) > 60:
        wrong.append("short_description has more than 60 characters.")
    if not HARDWARE.fullmatch(str(head.get("suggested_hardware", "cpu-basic"))):
        wrong.append(f"suggested_hardware is {head['suggested_hardware']!r}, which is unknown.")
    if not re.match(r"https://|assets/", str(head.get("thumbnail", "https://"))):
        wrong.append(f"thumbnail is {head['thumbnail']!r}; it must be an https address.")
    return wrong + _check_preload(head.get("preload_from_hub", []))


def _check_preload(lines: Sequence[str]) -> list[str]:
    """Every entry names files and a commit: "repo file,file commit"."""
    shape = r"[\w.-]+/[\w.-]+ [^\s,]+(,[^\s,]+)* [0-9a-f]{40}"
    return [
        f"preload_from_hub has {str(line)[:80]!r}; need 'repo file,file commit'."
        for line in lines
        if not re.fullmatch(shape, str(line))
    ]


def check_requirements(text: str, head: Mapping[str, Any]) -> list[str]:
    """What a Space would not accept in requirements.txt, as sentences."""
    wrong, found = [], {}
    for line in (line.split("#")[0].strip() for line in text.splitlines()):
        if not line:
            continue
        try:
            requirement = Requirement(line)
        except InvalidRequirement:
            wrong.append(f"requirements.txt: {line!r} is no plain requirement.")
            continue
        found[requirement.name.lower()] = requirement
    gradio, torch = found.get("gradio"), found.get("torch")
    if gradio and not gradio.specifier.contains(str(head.get("sdk_version", ""))):
        wrong.append(f"requirements.txt has {gradio}, the front matter {head.get('sdk_version')}.")
    if torch is None:
        wrong.append("requirements.txt does not name torch.")
    elif not any(torch.specifier.contains(version) for version in ZERO_GPU_TORCH):
        wrong.append(f"requirements.txt has {torch}; ZeroGPU takes {', '.join(ZERO_GPU_TORCH)}.")
    if str(head.get("python_version", "3.10")) not in ZERO_GPU_PYTHON:
        wrong.append(f"python_version is {head['python_version']}; ZeroGPU has 3.12 and 3.10.")
    return wrong


def check_files(tree: Tree) -> list[str]:
    """Missing files, and files that are too large or not committed, as sentences."""
    wrong = [
        f"{name} is missing."
        for name in ("README.md", "requirements.txt", "app.py")
        if name not in tree.sizes
    ]
    wrong += [
        f"{path} has {_megabytes(size)}; above 10 MB its kind must go through LFS (see BINARY)."
        for path, size in tree.sizes.items()
        if size > LIMIT_BYTES and PurePosixPath(path).suffix not in BINARY
    ]
    if tree.changed:
        names = ", ".join(tree.changed[:5]) + (" ..." if len(tree.changed) > 5 else "")
        wrong.append(f"Not committed, so not uploaded: {names}.")
    return wrong


def check(tree: Tree) -> list[str]:
    """Everything that would keep the tree from running as a Space, as sentences."""
    wrong = check_files(tree)
    try:
        head = read_head(tree.text("README.md"))
    except ValueError as error:
        return [*wrong, str(error)]
    wrong += check_head(head, tree.sizes)
    return wrong + check_requirements(tree.text("requirements.txt"), head)


def space_attributes(paths: Iterable[str]) -> str:
    """`.gitattributes` of the Space: its binary kinds go through LFS or Xet.

    The repository's own file does not say so, because a plain git clone of it must work.
    """
    kinds = sorted({PurePosixPath(path).suffix for path in paths} & BINARY)
    return "".join(f"*{kind} filter=lfs diff=lfs merge=lfs -text\n" for kind in kinds)


def stage(tree: Tree, folder: Path, repo: str) -> None:
    """Writes what a Space gets into an empty folder: committed files and its `.gitattributes`.

    The README's thumbnail becomes an address on the Space itself.
    """
    packed = subprocess.run(
        ["git", "archive", "HEAD", "--", *tree.sizes],
        cwd=tree.root,
        capture_output=True,
        check=True,
    )
    with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as archive:
        archive.extractall(folder, filter="data")
    (folder / ".gitattributes").write_text(space_attributes(tree.sizes), "utf-8")
    readme = folder / "README.md"
    address = f"https://huggingface.co/spaces/{repo}/resolve/main/{THUMBNAIL}"
    readme.write_text(with_thumbnail(readme.read_text("utf-8"), address), "utf-8")


def with_thumbnail(readme: str, address: str) -> str:
    """The README with `thumbnail` in its front matter set to an address."""
    _, head, body = readme.split("---\n", 2)
    lines = [line for line in head.splitlines() if not line.startswith("thumbnail:")]
    return "---\n" + "\n".join([*lines, f"thumbnail: {address}"]) + "\n---\n" + body


def upload(tree: Tree, repo: str, api: Any, private: bool = False) -> str:
    """Makes the Space if there is none and replaces its files by the tree.

    Args:
        tree: A tree that passed `check`.
        repo: OWNER/NAME.
        api: A `huggingface_hub.HfApi`.
        private: Whether a new Space is private.

    Returns:
        The Space's address.

    Raises:
        ValueError: With one sentence, if the hub refuses.
    """
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    try:
        api.create_repo(repo, repo_type="space", space_sdk="gradio", private=private, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            stage(tree, Path(folder), repo)
            api.upload_folder(
                repo_id=repo,
                repo_type="space",
                folder_path=folder,
                commit_message=_git(tree.root, "log", "-1", "--format=%s").strip(),
                delete_patterns=["*"],  # the Space mirrors the tree
            )
    except LocalTokenNotFoundError as error:
        raise ValueError("No token: run `hf auth login` once, or set HF_TOKEN.") from error
    except HfHubHTTPError as error:
        raise ValueError(f"The hub refused {repo}: {_first_line(error)}") from error
    except OSError as error:  # no network, or no room
        raise ValueError(f"{repo} could not be reached: {_first_line(error)}") from error
    return f"https://huggingface.co/spaces/{repo}"


def repo_name(text: str) -> str:
    """A Space's name, for the command line."""
    if not re.fullmatch(r"[\w.-]{1,96}/[\w.-]{1,96}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no name of a Space; need OWNER/NAME.")
    return text


def summary(tree: Tree) -> str:
    """What would be uploaded, file by file, and how much it weighs."""
    lines = [f"{_megabytes(size):>9}  {path}" for path, size in sorted(tree.sizes.items())]
    total = f"{len(tree.sizes)} files, {_megabytes(sum(tree.sizes.values()))}"
    return "\n".join([*lines, total])


def main(arguments: Sequence[str] | None = None, api: Callable[[], Any] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        "python -m sage.deploy", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--repo", type=repo_name, help="the Space, OWNER/NAME")
    parser.add_argument("--dry-run", action="store_true", help="check and list, upload nothing")
    parser.add_argument("--private", action="store_true", help="a new Space is private")
    flags = parser.parse_args(arguments)
    if not flags.dry_run and flags.repo is None:
        parser.error("name the Space with --repo OWNER/NAME, or try --dry-run")
    try:
        tree = Tree.of(ROOT)
        print(summary(tree))
        wrong = check(tree)
        for sentence in wrong:
            print(f"- {sentence}", file=sys.stderr)
        if wrong:
            raise ValueError(f"{len(wrong)} of the checks failed; nothing was uploaded.")
        if flags.dry_run:
            print("All checks passed; nothing was uploaded.")
            return 0
        print(upload(tree, flags.repo, (api or _hub)(), flags.private))
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _hub() -> Any:
    from huggingface_hub import HfApi

    return HfApi()


def _git(root: Path, *arguments: str) -> str:
    run = subprocess.run(["git", *arguments], cwd=root, capture_output=True, check=False)
    if run.returncode:
        raise ValueError(f"git cannot read {root}: {run.stderr.decode().strip()[:200]}")
    return run.stdout.decode("utf-8", "replace")


def _is_wanted(path: str) -> bool:
    return not path.startswith(LEFT_OUT)


def _megabytes(size: int) -> str:
    return f"{size / 2**20:.1f} MB" if size >= 2**20 else f"{size / 2**10:.1f} kB"


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


if __name__ == "__main__":
    sys.exit(main())
