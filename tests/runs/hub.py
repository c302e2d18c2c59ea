"""A hub on loopback that speaks what huggingface_hub needs, over a folder OWNER/NAME/FILE."""

import hashlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

COMMIT = "c" * 40


class Hub:
    """Serves the folder at `endpoint` until it is closed; `requests` are the paths that were asked for."""

    def __init__(self, folder: Path) -> None:
        hub, self.requests = self, []

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self):
                if self.path.count("/") < 5:  # other services of the hub
                    return self._refuse(404, "")
                hub.requests.append(self.path)
                owner, name, _, revision, file = self.path.strip("/").split("/", 4)
                repo = folder / owner / name
                if name == "restricted":
                    return self._refuse(403, "GatedRepo")
                if not repo.is_dir():
                    return self._refuse(401, "RepoNotFound")
                if revision not in ("main", COMMIT):
                    return self._refuse(404, "RevisionNotFound")
                if not (repo / file).is_file():
                    return self._refuse(404, "EntryNotFound")
                data = (repo / file).read_bytes()
                self.send_response(200)
                self.send_header("X-Repo-Commit", COMMIT)
                self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                return data

            def do_GET(self):
                data = self.do_HEAD()
                if data is not None:
                    self.wfile.write(data)

            def _refuse(self, status, code):
                self.send_response(status)
                self.send_header("X-Error-Code", code)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *args):
                """Print nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.thread = Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02})
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()
