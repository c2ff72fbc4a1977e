"""{{name}}: a component in Python. `IncomingHandler.handle` is called for every request."""

from componentize_py_types import Ok
from wit_world import exports
from wit_world.imports.types import Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam

from pages import answer


class IncomingHandler(exports.IncomingHandler):
    def handle(self, request: IncomingRequest, response_out: ResponseOutparam) -> None:
        status, kind, text = answer(request.path_with_query() or "/")
        response = OutgoingResponse(Fields.from_list([("content-type", kind.encode())]))
        response.set_status_code(status)
        body = response.body()
        ResponseOutparam.set(response_out, Ok(response))
        with body.write() as stream:
            data = text.encode()
            for start in range(0, len(data), 4096):  # what one call may take
                stream.blocking_write_and_flush(data[start : start + 4096])
        OutgoingBody.finish(body, None)
