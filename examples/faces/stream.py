"""A camera's stream over WebSocket: a JPEG in every binary message, an answer for each that was
looked at. When frames come faster than they can be looked at, the newest is taken next, and the
answer says how many before it were not."""

from __future__ import annotations

import json
import threading
import traceback
from typing import TYPE_CHECKING

from websockets.exceptions import InvalidUpgrade
from websockets.frames import CloseCode, Opcode
from websockets.protocol import SEND_EOF, State
from websockets.server import ServerProtocol

from serving.handler import Answer, Refused

if TYPE_CHECKING:
    from faces.server import Handler

CHUNK = 1 << 16


class Newest:
    """Room for one frame: who puts another there takes the place of the one before."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._frame: bytes | None = None
        self._count = 0  # of all that came
        self._answered = 0
        self._closed = False

    def put(self, frame: bytes) -> bool:
        """False if it is closed."""
        with self._changed:
            if self._closed:
                return False
            self._frame = frame
            self._count += 1
            self._changed.notify()
            return True

    def close(self) -> None:
        """What is there can still be taken."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def take(self) -> tuple[int, int, bytes] | None:
        """Its number from 0, how many before it were never taken, and the frame. None after the
        last."""
        with self._changed:
            self._changed.wait_for(lambda: self._frame is not None or self._closed)
            if self._frame is None:
                return None
            frame, self._frame = self._frame, None
            passed = self._count - 1 - self._answered
            self._answered = self._count
            return self._count - 1, passed, frame


class Stream:
    """One camera. The connection's own thread reads; another looks and answers."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self._service = handler.server.service
        self._protocol = ServerProtocol(max_size=self._service.config.max_bytes)
        self._lock = threading.Lock()  # of the protocol, and of who sends
        self._newest = Newest()
        self._close = (CloseCode.NORMAL_CLOSURE, "")

    def accept(self) -> None:
        """Raises Refused if that is no WebSocket handshake."""
        handler, protocol = self._handler, self._protocol
        # The request has been read already; the library wants to see it for itself.
        lines = [f"{name}: {value}" for name, value in handler.headers.items()]
        head = "\r\n".join([f"GET {handler.path} HTTP/1.1", *lines, "", ""])
        protocol.receive_data(head.encode("latin-1"))
        requests = protocol.events_received()
        if not requests:
            raise Refused(400, f"not a WebSocket request: {protocol.parser_exc}")
        response = protocol.accept(requests[0])
        if isinstance(protocol.handshake_exc, InvalidUpgrade):
            raise Refused(426, "GET /stream is for WebSocket; for one picture: POST /detect")
        if protocol.handshake_exc:
            raise Refused(response.status_code, f"not a WebSocket: {protocol.handshake_exc}")
        protocol.send_response(response)
        self._flush()

    def run(self) -> None:
        """Till it ends; whatever the camera does ends this stream and nothing else."""
        worker = threading.Thread(target=self._work, daemon=True)
        worker.start()
        try:
            self._read()
        except TimeoutError:
            seconds = self._handler.limits.upload_seconds
            self.end(CloseCode.POLICY_VIOLATION, f"no whole frame came in {seconds:g} s")
        except OSError:
            pass
        self._newest.close()
        worker.join()
        self._handler.linger()  # lest what the camera still sends reset the connection

    def end(self, code: CloseCode, why: str) -> None:
        """After the answer that is being made."""
        self._close = (code, why)
        self._newest.close()

    # --- the camera's side ------------------------------------------------------------------------

    def _read(self) -> None:
        parts: list[bytes] = []
        while data := self._handler.rfile.read1(CHUNK):
            with self._lock:
                self._protocol.receive_data(data)
                frames = self._protocol.events_received()
                self._flush()  # answers to pings, and whatever is wrong with it
            for frame in frames:
                if frame.opcode is Opcode.TEXT:
                    return self.end(CloseCode.UNSUPPORTED_DATA, "send JPEGs, as binary messages")
                if frame.opcode in (Opcode.BINARY, Opcode.CONT):
                    parts.append(frame.data)
                    if frame.fin:
                        if not self._newest.put(b"".join(parts)):
                            return None
                        parts.clear()
                if not parts:
                    self._handler.patient(self._handler.limits.upload_seconds)
            if self._protocol.state is not State.OPEN:
                return None
        return None

    def _flush(self) -> None:
        for data in self._protocol.data_to_send():
            if data is not SEND_EOF:
                self._handler.wfile.write(data)

    # --- ours -------------------------------------------------------------------------------------

    def _work(self) -> None:
        try:
            while taken := self._newest.take():
                number, passed, frame = taken
                self._service.passed(passed)
                self._say({"frame": number, "dropped": passed} | self._answer(frame))
            with self._lock:
                if self._protocol.state is State.OPEN:
                    self._protocol.send_close(*self._close)
                    self._flush()
        except OSError:
            self._newest.close()  # it does not take its answers, or has gone

    def _answer(self, frame: bytes) -> Answer:
        try:
            return self._service.detect(frame)
        except Refused as refused:
            return refused.answer
        except Exception:
            traceback.print_exc()
            return Refused(500, "the server has failed; its log says more").answer

    def _say(self, answer: Answer) -> None:
        with self._lock:
            if self._protocol.state is State.OPEN:
                self._protocol.send_text(json.dumps(answer).encode())
                self._flush()
