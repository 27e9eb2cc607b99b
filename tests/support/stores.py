"""Object stores on loopback: moto's S3, a stand-in of Google Cloud Storage, and failures between them and a client."""

import email.utils
import hashlib
import http.client
import http.server
import itertools
import json
import logging
import socket
import struct
import threading
import time
import urllib.parse
import xml.sax.saxutils


class _Listener(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request, client_address):
        pass  # a client that was killed


class _Server:
    """Serves on loopback until `stop()`; `url` is its address, `requests` its (method, path) so far."""

    def __init__(self, handler):
        self.requests = []
        self._server = _Listener(("127.0.0.1", 0), handler)
        self._server.owner = self
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()

    def stop(self):
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_GET(self):
        self.server.owner.requests.append((self.command, self.path))
        self.answer(self.rfile.read(int(self.headers.get("Content-Length") or 0)))

    do_PUT = do_POST = do_DELETE = do_HEAD = do_GET

    def send(self, status, body=b"", headers=()):
        self.send_response(status)
        for key, value in dict(headers).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


class _GoogleHandler(_Handler):
    """Both ways to speak to Google Cloud Storage: XML, as obstore does, and JSON, as TensorStore does."""

    def answer(self, body):
        url = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(url.query, keep_blank_values=True))
        path = url.path
        for prefix in ("/upload/storage/v1/b/", "/storage/v1/b/"):
            if path.startswith(prefix):
                bucket, _, key = path.removeprefix(prefix).partition("/o")
                return self._json(bucket, urllib.parse.unquote(key.removeprefix("/")), query, body)
        bucket, _, key = urllib.parse.unquote(path).lstrip("/").partition("/")
        return self._xml(bucket, key, query, body)

    def _objects(self, bucket):
        return self.server.owner.buckets.get(bucket)

    def _put(self, objects, key, body, wanted):
        """Puts an object where its generation is the one that is wanted; None: it is not."""
        with self.server.owner.lock:
            now = objects[key][1] if key in objects else 0
            if wanted is not None and int(wanted) != now and not self.server.owner.careless:
                return None
            objects[key] = (body, next(self.server.owner.generations), time.time())
            return objects[key]

    def _json(self, bucket, key, query, body):
        objects = self._objects(bucket)
        if objects is None:
            return self.send(404, b"{}")
        if self.server.owner.read_only and self.command in ("POST", "DELETE"):
            return self.send(403, b"{}")
        if self.command == "POST":
            name = query["name"]
            put = self._put(objects, name, body, query.get("ifGenerationMatch"))
            return self.send(412, b"{}") if put is None else self.send(200, self._about(bucket, name, put))
        if self.command == "DELETE":
            return self.send(204 if objects.pop(key, None) else 404)
        if not key:
            first, end = query.get("startOffset", ""), query.get("endOffset")
            names = [n for n in sorted(list(objects)) if n.startswith(query.get("prefix", ""))]
            names = [n for n in names if n >= first and (end is None or n < end)]
            return self.send(200, json.dumps({"items": [{"name": n, "size": str(len(objects[n][0]))} for n in names]})
                             .encode())  # fmt: skip
        if key not in objects:
            return self.send(404, b"{}")
        if query.get("alt") != "media":
            return self.send(200, self._about(bucket, key, objects[key]))
        return self._content(objects[key])

    def _about(self, bucket, key, entry):
        return json.dumps({"name": key, "bucket": bucket, "generation": str(entry[1]), "size": str(len(entry[0]))}
                          ).encode()  # fmt: skip

    def _content(self, entry):
        content, generation, at = entry
        headers = {"x-goog-generation": str(generation), "ETag": f'"{hashlib.md5(content).hexdigest()}"',
                   "Last-Modified": email.utils.formatdate(at, usegmt=True)}  # fmt: skip
        span = self.headers.get("Range")
        if not span or self.command == "HEAD":
            return self.send(200, content, headers)
        first, _, last = span.removeprefix("bytes=").partition("-")
        low = int(first) if first else max(0, len(content) - int(last))
        high = min(int(last) + 1, len(content)) if first and last else len(content)
        if low >= high:
            return self.send(416)
        self.send(206, content[low:high], {**headers, "Content-Range": f"bytes {low}-{high - 1}/{len(content)}"})

    def _xml(self, bucket, key, query, body):
        objects = self._objects(bucket)
        if objects is None:
            return self.send(404, b"<Error><Code>NoSuchBucket</Code></Error>")
        if self.server.owner.read_only and self.command in ("PUT", "POST", "DELETE"):
            return self.send(403, b"<Error><Code>AccessDenied</Code></Error>")
        if not key:
            return self._list(objects, query)
        if self.command == "PUT":
            put = self._put(objects, key, body, self.headers.get("x-goog-if-generation-match"))
            if put is None:
                return self.send(412, b"<Error><Code>PreconditionFailed</Code></Error>")
            headers = {"ETag": f'"{hashlib.md5(body).hexdigest()}"', "x-goog-generation": str(put[1])}
            return self.send(200, b"", headers)
        if self.command == "DELETE":
            return self.send(204 if objects.pop(key, None) else 404)
        if key not in objects:
            return self.send(404, b"<Error><Code>NoSuchKey</Code></Error>")
        return self._content(objects[key])

    def _list(self, objects, query):
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter")
        names, folders = [], set()
        for name in sorted(list(objects)):
            if name.startswith(prefix):
                head, mark, _ = name[len(prefix) :].partition(delimiter) if delimiter else (name, "", "")
                folders.add(f"{prefix}{head}/") if mark else names.append(name)
        text = "<ListBucketResult><IsTruncated>false</IsTruncated>"
        for name in names:
            content, generation, _ = objects[name]
            text += (f"<Contents><Key>{xml.sax.saxutils.escape(name)}</Key><Generation>{generation}</Generation>"
                     f"<Size>{len(content)}</Size><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
                     f"<ETag>\"{hashlib.md5(content).hexdigest()}\"</ETag></Contents>")  # fmt: skip
        for folder in sorted(folders):
            text += f"<CommonPrefixes><Prefix>{xml.sax.saxutils.escape(folder)}</Prefix></CommonPrefixes>"
        self.send(200, (text + "</ListBucketResult>").encode(), {"Content-Type": "application/xml"})


class GoogleStandIn(_Server):
    """A stand-in of Google Cloud Storage with one bucket, "cells".

    Attributes:
      buckets: {bucket: {name: (content, generation, time)}}.
      careless: whether conditions of puts are ignored.
      read_only: whether puts are refused.
    """

    def __init__(self):
        self.buckets, self.generations, self.lock = {"cells": {}}, itertools.count(1), threading.Lock()
        self.careless = self.read_only = False
        super().__init__(_GoogleHandler)


class _FaultyHandler(_Handler):
    """Hands a request on, or fails as the owner says."""

    def answer(self, body):
        owner = self.server.owner
        fault = owner.fault(self.command, self.path)
        if fault == "busy":
            return self.send(503, b"<Error><Code>SlowDown</Code></Error>")
        if fault == "reset":
            return self._reset()
        connection = http.client.HTTPConnection(owner.target, timeout=30)
        try:
            headers = {k: v for k, v in self.headers.items() if k.lower() not in owner.hidden}
            connection.request(self.command, self.path, body, headers)
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        if fault == "lost":  # it was done, and the client does not hear of it
            return self._reset()
        self.send_response(answer.status)
        for key, value in answer.getheaders():
            if key.lower() not in ("transfer-encoding", "connection", "date", "server"):
                self.send_header(key, value)
        if answer.getheader("Content-Length") is None:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _reset(self):
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()


class Faulty(_Server):
    """Hands requests on to another server, and lets one in `every` fail: by status 503, a reset, or an answer lost.

    Attributes:
      faults: how often each kind was.
      hidden: headers that are not handed on, as a store that does not know them.
    """

    def __init__(self, url, every, hidden=()):
        self.target, self._every = urllib.parse.urlsplit(url).netloc, every
        self.hidden = {header.lower() for header in hidden}
        self.faults, self._count, self._lock = {"busy": 0, "reset": 0, "lost": 0}, 0, threading.Lock()
        super().__init__(_FaultyHandler)

    def fault(self, method, path):
        with self._lock:
            self._count += 1
            if not self._every or self._count % self._every:
                return None
            kind = ("busy", "reset", "lost")[self._count // self._every % 3]
            self.faults[kind] += 1
            return kind


def s3_server():
    """moto's S3 on loopback with an empty bucket "cells": (server, endpoint, client of boto3)."""
    import boto3
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line for each request
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1",
                          aws_access_key_id="key", aws_secret_access_key="secret")  # fmt: skip
    client.create_bucket(Bucket="cells")
    return server, endpoint, client
