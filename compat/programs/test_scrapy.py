"""Scrapy, a crawler, keeps pages in a dbm whose module is a setting (``DbmCacheStorage``)."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import oblivion_dbm

SPIDER = """\
import sys, scrapy
from scrapy.crawler import CrawlerProcess

class Spider(scrapy.Spider):
    name = "pages"
    start_urls = [sys.argv[1] + str(number) for number in range(5)]

    def parse(self, response):
        print(response.text, *response.flags)

process = CrawlerProcess({
    "HTTPCACHE_ENABLED": True,
    "HTTPCACHE_DIR": "cache",
    "HTTPCACHE_STORAGE": "scrapy.extensions.httpcache.DbmCacheStorage",
    "HTTPCACHE_DBM_MODULE": "oblivion_dbm",
    "LOG_LEVEL": "ERROR",
    "TELNETCONSOLE_ENABLED": False,
})
process.crawl(Spider)
process.start()
"""


@pytest.fixture
def served() -> Iterator[tuple[str, list[str]]]:
    """The address of a server of pages, and the pages it was asked for."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            page = f"page {self.path}".encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/plain")
            self.send_header("Content-Length", str(len(page)))
            self.end_headers()
            self.wfile.write(page)

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/", asked
    server.shutdown()
    thread.join()
    server.server_close()


def crawl(address: str) -> list[str]:
    ran = subprocess.run(
        [sys.executable, "spider.py", address], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    return sorted(ran.stdout.splitlines())


def test_a_second_crawl_reads_the_pages_from_the_store(served: tuple[str, list[str]]) -> None:
    address, asked = served
    Path("spider.py").write_text(SPIDER)
    assert crawl(address) == [f"page /{number}" for number in range(5)]
    assert sorted(asked) == [f"/{number}" for number in range(5)]
    asked.clear()
    assert crawl(address) == [f"page /{number} cached" for number in range(5)]
    assert asked == []
    (found,) = Path().rglob("pages.db")
    with oblivion_dbm.open(found) as db:
        assert len(db) == 10
