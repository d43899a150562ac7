"""The HTTP call beside the page, and who may speak to either: `POST /restore`, a picture in, a picture out.

    curl -F file=@rainy.jpg http://127.0.0.1:7860/restore -o clean.jpg
    curl --data-binary @rainy.jpg 'http://127.0.0.1:7860/restore?task=derain&format=png' -o clean.png

Query: `task` (a name that the page offers), `format` (png, jpg, …; default: as the input), `quality`, `outscale`. The
answer is the picture; what is wrong with a request, a mistyped name among it, is a line of JSON, {"error": …}, with 400
(or 413: too large).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import UserError, nearest
from ..images.formats import KINDS
from .restore_files import restore_bytes
from .restorer import Restorer

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

OPTIONS = ('task', 'format', 'quality', 'outscale')
"""What a query may say."""
ASKED = 'vmambair.asked_at'
"""Key of a request's scope."""
LOCAL = ('127.0.0.1', 'localhost', '[::1]')
Get = Callable[[str | None, float | None], Restorer]


class Guard:
    """Answers only who means this server: a page of another site must not send pictures through a visitor's browser.

    Notes when each request came, see `asked_at`.

    Args:
        app: what is guarded.
        hosts: names that the server may be asked by; empty: all, where other computers are let in.
    """

    def __init__(self, app: Any, hosts: tuple[str, ...]) -> None:
        self.app = app
        self.hosts = hosts

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        from starlette.datastructures import Headers
        from starlette.responses import PlainTextResponse

        scope[ASKED] = time.monotonic()
        if scope['type'] in ('http', 'websocket'):
            headers = Headers(scope=scope)
            host, origin = headers.get('host', ''), headers.get('origin')
            if self.hosts and _name(host) not in self.hosts:
                refuse = PlainTextResponse(f'this server is not called {_name(host)}\n', 400)
            elif origin is not None and origin.partition('://')[2] != host:
                refuse = PlainTextResponse(
                    f'not from a page of another site ({origin} is not {host}); a reverse proxy must hand the name on, '
                    'in nginx: proxy_set_header Host $http_host\n',
                    403,
                )
            else:
                return await self.app(scope, receive, send)
            return await refuse(scope, receive, send)
        return await self.app(scope, receive, send)


def asked_at(request: Any) -> float:
    """When a visitor asked for what begins now, maybe after a wait, in seconds of `time.monotonic`.

    Args:
        request: gradio's, which has that of starlette.
    """
    scope = getattr(request.request, 'scope', {})
    return float(scope.get(ASKED, time.monotonic()))


def _name(host: str) -> str:
    """A Host header without its port."""
    return host[: host.index(']') + 1] if host.startswith('[') and ']' in host else host.rpartition(':')[0] or host


def route(restorer: Get, places: threading.Semaphore, max_pixels: int, max_bytes: int) -> Route:
    """The call.

    Args:
        restorer: gives one by task and outscale.
        places: how many pictures are worked on at a time, the page's among them.
        max_pixels, max_bytes: of a picture and of a request.
    """
    from starlette.concurrency import run_in_threadpool
    from starlette.exceptions import HTTPException
    from starlette.formparsers import MultiPartException
    from starlette.responses import JSONResponse
    from starlette.responses import Response as Answer
    from starlette.routing import Route

    async def call(request: Request) -> Response:
        try:
            body, name = await _picture(request, max_bytes)
        except (HTTPException, MultiPartException, UserError) as error:  # a form that is none, or says too much
            return JSONResponse({'error': str(getattr(error, 'detail', error))}, 400)
        if body is None:
            return JSONResponse({'error': f'the request is larger than {max_bytes} bytes; see --max-upload'}, 413)
        query = request.query_params
        try:
            _check_names([key for key, _ in query.multi_items()], OPTIONS)
            if not body:
                raise UserError('send a picture: curl -F file=@rainy.jpg …/restore, or --data-binary @rainy.jpg')
            outscale, quality = _number(query.get('outscale'), float), _number(query.get('quality'), int)

            def work() -> tuple[bytes, str]:
                with places:
                    return restore_bytes(
                        body,
                        restorer(query.get('task'), outscale),
                        format=query.get('format', 'auto'),
                        quality=quality,
                        max_pixels=max_pixels,
                        name=name,
                    )

            data, kind = await run_in_threadpool(work)
        except UserError as error:
            status = 413 if 'too large' in str(error) else 400
            return JSONResponse({'error': str(error)}, status)
        suffix = KINDS[kind].suffixes[0]
        mime = {'JPEG2000': 'image/jp2', 'HEIF': 'image/heic'}.get(kind, f'image/{kind.lower()}')
        disposition = f'attachment; filename="restored{suffix}"'
        return Answer(data, media_type=mime, headers={'Content-Disposition': disposition})

    return Route('/restore', call, methods=['POST'])


async def _picture(request: Request, max_bytes: int) -> tuple[bytes | None, str]:
    """The bytes of the picture and its name; None where there are more than `max_bytes`.

    Raises:
        UserError: a form with other fields than the picture's.
    """
    if int(request.headers.get('content-length') or 0) > max_bytes:
        return None, ''
    if request.headers.get('content-type', '').startswith('multipart/form-data'):
        from starlette.requests import Request as Form

        taken = 0

        async def counted() -> Any:
            nonlocal taken
            message = await request.receive()
            taken += len(message.get('body', b''))
            if taken > max_bytes:  # one that does not say beforehand how large it is
                raise _TooLargeError
            return message

        try:
            async with Form(request.scope, counted).form(max_files=1) as form:
                _check_names([key for key, _ in form.multi_items()], ('file',))
                upload = form.get('file')
                if upload is None or isinstance(upload, str):
                    return b'', ''
                return await upload.read(), (upload.filename or 'file').replace('\\', '/').rpartition('/')[2]
        except _TooLargeError:
            return None, ''
    body = b''
    async for part in request.stream():
        body += part
        if len(body) > max_bytes:
            return None, ''
    return body, 'the picture'


class _TooLargeError(Exception):
    """More bytes than may be sent."""


def _check_names(given: Sequence[str], known: Sequence[str]) -> None:
    """Refuse what would be ignored.

    Args:
        given: names in a query or a form.
        known: what is read there.

    Raises:
        UserError: a name that nothing reads, or one twice.
    """
    for name in given:
        if name not in known:
            place = f' here; put it into the address: /restore?{name}=…' if name in OPTIONS else nearest(name, known)
            raise UserError(f"nothing reads '{name}'{place}")
        if given.count(name) > 1:
            raise UserError(f"'{name}' is given twice")


def _number(text: str | None, kind: type[float] | type[int]) -> Any:
    if text is None:
        return None
    try:
        return kind(text)
    except ValueError:
        raise UserError(f"'{text}' is no number") from None
