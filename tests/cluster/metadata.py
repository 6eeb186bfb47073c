"""The service at 169.254.169.254 of one machine, whose pages are the files of a folder: python metadata.py FOLDER.

Version 2 only: who brings no session is told nothing.
"""

import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

SESSION = "session"


class Pages(BaseHTTPRequestHandler):
    folder: Path

    def do_PUT(self) -> None:
        self._answer(*((200, SESSION) if self.path == "/latest/api/token" else (404, "")))

    def do_GET(self) -> None:
        page = self.folder / self.path.strip("/")
        if self.headers.get("X-aws-ec2-metadata-token") != SESSION:
            self._answer(401, "")
        elif page.is_dir():
            self._answer(200, "\n".join(sorted(entry.name for entry in page.iterdir())))
        else:
            self._answer(*((200, page.read_text()) if page.exists() else (404, "")))

    def _answer(self, status: int, text: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *arguments: object) -> None:
        pass


if __name__ == "__main__":
    Pages.folder = Path(sys.argv[1])
    ThreadingHTTPServer(("169.254.169.254", 80), Pages).serve_forever()
