"""What the test hub keeps, and how it answers each request: see ``hub_server``, which puts it on a port."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from urllib.parse import parse_qs, unquote

LFS_SUFFIXES = (".safetensors", ".bin", ".flac", ".wav", ".png")
LFS_FROM_BYTES = 10_000_000
REPO = r"(?P<repo>(?:datasets/)?[\w.-]+(?:/[\w.-]+)?)"
REVISION = r"(?P<revision>[^/]+)"


@dataclass
class Commit:
    """One state of a repository: its id, its title and the bytes of every file."""

    oid: str
    title: str
    files: dict[str, bytes]


@dataclass
class Repo:
    """A repository: its history, first to last; the last one is ``main``."""

    private: bool
    commits: list[Commit] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Request:
    """What was asked; ``span`` is the Range header."""

    method: str
    path: str
    query: str
    token: str
    span: str | None
    body: bytes


@dataclass
class Answer:
    """What goes back for a request."""

    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


class Refusal(Exception):
    """Ends a request with an error status and the code by which the client tells errors apart."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.answer = as_json({"error": message}, status)
        self.answer.headers.update({"X-Error-Code": code, "X-Error-Message": message})


def as_json(value: object, status: int = 200) -> Answer:
    return Answer(status, json.dumps(value).encode(), {"Content-Type": "application/json"})


def is_lfs(path: str, size: int) -> bool:
    return size >= LFS_FROM_BYTES or path.endswith(LFS_SUFFIXES)


def blob_id(content: bytes) -> str:
    """The name git gives to a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def etag(path: str, content: bytes) -> str:
    return hashlib.sha256(content).hexdigest() if is_lfs(path, len(content)) else blob_id(content)


class HubStore:
    """Repositories in memory, and an answer to each request."""

    def __init__(self, token: str | None, user: str) -> None:
        self.token = token
        self.user = user
        self.url = ""
        self.repos: dict[str, Repo] = {}
        self.objects: dict[str, bytes] = {}  # what LFS holds, by SHA-256
        self._lock = threading.Lock()

    def files(self, repo_id: str, revision: str = "main") -> dict[str, bytes]:
        """The files of a repository, by their path; a data set is named ``datasets/org/name``."""
        return dict(self._commit(repo_id, revision).files)

    def titles(self, repo_id: str) -> list[str]:
        """The titles of its commits, first to last, without the empty one it was made with."""
        return [commit.title for commit in self.repos[repo_id].commits[1:]]

    def answer(self, request: Request) -> Answer:
        path = request.path.replace("/api/datasets/", "/api/models/datasets/")
        for method, pattern, name in ROUTES:
            match = re.fullmatch(pattern, path) if method == request.method else None
            if match is None:
                continue
            try:
                with self._lock:
                    self._admit(name, match.groupdict().get("repo"), request.token)
                    found = {key: unquote(value or "") for key, value in match.groupdict().items()}
                    answer: Answer = getattr(self, f"_{name}")(request, **found)
            except Refusal as refusal:
                return refusal.answer
            return _part(answer, request.span) if name == "resolve" else answer
        return as_json({"error": f"the test hub does not know {request.method} {request.path}"}, 501)

    def _admit(self, name: str, repo: str | None, token: str) -> None:
        known = self.token is None or token == self.token
        if name in WRITES and not known:
            raise Refusal(401, "", "Invalid username or password.")
        if repo in self.repos and self.repos[repo].private and not known:
            raise Refusal(401, "RepoNotFound", "Repository not found")

    def _commit(self, repo: str, revision: str) -> Commit:
        if repo not in self.repos:
            raise Refusal(404, "RepoNotFound", "Repository not found")
        commits, named = self.repos[repo].commits, self.repos[repo].tags.get(revision, revision)
        found = [commit for commit in commits if named in ("main", commit.oid)]
        if not found:
            raise Refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return found[-1]

    # One method for each of ROUTES. All run under the lock.

    def _create(self, request: Request) -> Answer:
        asked = json.loads(request.body)
        kind = "datasets/" if asked.get("type") == "dataset" else ""
        repo = f"{kind}{asked.get('organization') or self.user}/{asked['name']}"
        url = {"url": f"{self.url}/{repo}"}
        if repo in self.repos:
            return as_json({"error": "You already created this model repo", **url}, 409)
        self.repos[repo] = Repo(
            bool(asked.get("private")) or asked.get("visibility") == "private",
            [Commit(hashlib.sha1(b"").hexdigest(), "initial", {})],
        )
        return as_json(url)

    def _validate(self, request: Request) -> Answer:
        return as_json({"errors": [], "warnings": []})

    def _preupload(self, request: Request, repo: str, revision: str) -> Answer:
        present = self._commit(repo, revision).files
        answers = []
        for asked in json.loads(request.body)["files"]:
            path = asked["path"]
            mode = "lfs" if is_lfs(path, asked["size"]) else "regular"
            oid = {"oid": etag(path, present[path])} if path in present else {}
            answers.append({"path": path, "uploadMode": mode, "shouldIgnore": False, **oid})
        return as_json({"files": answers})

    def _batch(self, request: Request, repo: str) -> Answer:
        self._commit(repo, "main")
        answers = []
        for asked in json.loads(request.body)["objects"]:
            upload, verify = f"{self.url}/lfs/{asked['oid']}", f"{self.url}/lfs/verify"
            actions = {"actions": {"upload": {"href": upload, "header": {}}, "verify": {"href": verify}}}
            answers.append({**asked, **({} if asked["oid"] in self.objects else actions)})
        return as_json({"transfer": "basic", "objects": answers})

    def _put(self, request: Request, oid: str) -> Answer:
        if hashlib.sha256(request.body).hexdigest() != oid:
            raise Refusal(400, "", "the content is not what its SHA-256 says")
        self.objects[oid] = request.body
        return Answer(200)

    def _verify(self, request: Request) -> Answer:
        asked = json.loads(request.body)
        there = len(self.objects.get(asked["oid"], b"")) == asked["size"]
        return Answer(200) if there else as_json({"message": "object missing"}, 404)

    def _change(self, request: Request, repo: str, revision: str) -> Answer:
        head = self._commit(repo, revision)
        files = dict(head.files)
        title = ""
        for line in request.body.splitlines():
            row = json.loads(line)
            value = row["value"]
            if row["key"] == "header":
                title = value["summary"]
                if value.get("parentCommit", head.oid) != head.oid:
                    raise Refusal(412, "", "A commit has happened since.")
            elif row["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif row["key"] == "lfsFile":
                if value["oid"] not in self.objects:
                    raise Refusal(400, "", f"LFS pointer without its object: {value['path']}")
                files[value["path"]] = self.objects[value["oid"]]
            else:  # deletedFile or deletedFolder
                gone = value["path"].rstrip("/")
                files = {path: content for path, content in files.items() if path != gone}
                files = {path: content for path, content in files.items() if not path.startswith(gone + "/")}
        listing = "".join(f"{path}\0{blob_id(content)}\0" for path, content in sorted(files.items()))
        oid = hashlib.sha1(f"{head.oid}{title}{listing}".encode()).hexdigest()
        self.repos[repo].commits.append(Commit(oid, title, files))
        url = f"{self.url}/{repo}/commit/{oid}"
        return as_json({"success": True, "commitOid": oid, "commitUrl": url, "hookOutput": ""})

    def _tag(self, request: Request, repo: str, revision: str) -> Answer:
        name = json.loads(request.body)["tag"]
        if name in self.repos[repo].tags:
            raise Refusal(409, "", f"Tag reference exists already: {name}")
        self.repos[repo].tags[name] = self._commit(repo, revision).oid
        return Answer(200)

    def _info(self, request: Request, repo: str, revision: str = "main") -> Answer:
        commit = self._commit(repo, revision)
        card = re.match(rb"---\n(.*?)\n---", commit.files.get("README.md", b""), re.DOTALL)
        plain = dict(re.findall(r"^(pipeline_tag|library_name): *(\S+)$", card[1].decode() if card else "", re.M))
        private = self.repos[repo].private
        siblings = [{"rfilename": path} for path in sorted(commit.files)]
        name = repo.removeprefix("datasets/")
        known = {"id": name, "modelId": name, "sha": commit.oid, "private": private, "siblings": siblings}
        return as_json({**known, "author": name.split("/")[0], "tags": [], "downloads": 0, "likes": 0, **plain})

    def _tree(self, request: Request, repo: str, revision: str, path: str = "") -> Answer:
        files = self._commit(repo, revision).files
        start = path + "/" if path else ""
        inside = sorted(name for name in files if name.startswith(start))
        if path and not inside:
            raise Refusal(404, "EntryNotFound", f"{path} does not exist on {revision!r}")
        deep = "recursive=true" in request.query.lower()
        folders = sorted({name[: name.index("/", len(start))] for name in inside if "/" in name[len(start) :]})
        rows: list[dict[str, object]] = [{"type": "directory", "oid": "0" * 40, "size": 0, "path": f} for f in folders]
        rows += [_entry(name, files[name]) for name in inside if deep or "/" not in name[len(start) :]]
        return as_json(rows)

    def _paths(self, request: Request, repo: str, revision: str) -> Answer:
        files = self._commit(repo, revision).files
        asked = parse_qs(request.body.decode())["paths"]
        return as_json([_entry(name, files[name]) for name in asked if name in files])

    def _resolve(self, request: Request, repo: str, revision: str, path: str) -> Answer:
        commit = self._commit(repo, revision)
        if path not in commit.files:
            raise Refusal(404, "EntryNotFound", f"Entry not found: {path}")
        content = commit.files[path]
        headers = {"ETag": f'"{etag(path, content)}"', "X-Repo-Commit": commit.oid, "Accept-Ranges": "bytes"}
        if is_lfs(path, len(content)):
            headers |= {"X-Linked-Etag": headers["ETag"], "X-Linked-Size": str(len(content))}
        return Answer(200, content, headers)


ROUTES = (
    ("POST", r"/api/repos/create", "create"),
    ("POST", r"/api/validate-yaml", "validate"),
    ("POST", rf"/api/models/{REPO}/preupload/{REVISION}", "preupload"),
    ("POST", rf"/{REPO}\.git/info/lfs/objects/batch", "batch"),
    ("PUT", r"/lfs/(?P<oid>[0-9a-f]{64})", "put"),
    ("POST", r"/lfs/verify", "verify"),
    ("POST", rf"/api/models/{REPO}/commit/{REVISION}", "change"),
    ("POST", rf"/api/models/{REPO}/tag/{REVISION}", "tag"),
    ("GET", rf"/api/models/{REPO}/revision/{REVISION}", "info"),
    ("GET", rf"/api/models/{REPO}/tree/{REVISION}(?:/(?P<path>.*))?", "tree"),
    ("POST", rf"/api/models/{REPO}/paths-info/{REVISION}", "paths"),
    ("GET", rf"/api/models/{REPO}", "info"),
    ("GET", rf"/{REPO}/resolve/{REVISION}/(?P<path>.+)", "resolve"),
)
WRITES = {"create", "preupload", "batch", "change", "tag"}  # LFS links carry their own permission


def _entry(path: str, content: bytes) -> dict[str, object]:
    entry: dict[str, object] = {"type": "file", "oid": blob_id(content), "size": len(content), "path": path}
    if is_lfs(path, len(content)):
        entry["lfs"] = {"oid": etag(path, content), "size": len(content), "pointerSize": 134}
    return entry


def _part(answer: Answer, span: str | None) -> Answer:
    """The bytes that a Range header asks for."""
    match = re.fullmatch(r"bytes=(\d+)-(\d*)", span or "")
    if match is None or answer.status != 200:
        return answer
    total = len(answer.body)
    first, last = int(match[1]), min(int(match[2] or total), total - 1)
    answer.headers["Content-Range"] = f"bytes {first}-{last}/{total}"
    return Answer(206, answer.body[first : last + 1], answer.headers)
