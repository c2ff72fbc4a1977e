// A component by componentize-qjs: QuickJS, the bare handler of WASI 0.3.
import types from "wasi:http/types@0.3.0";

const { Fields, Response } = types;

export const handler = {
  async handle(request) {
    // QuickJS has no TextEncoder; these texts are ASCII.
    const encode = (text) => Uint8Array.from(text, (letter) => letter.charCodeAt(0));
    const headers = Fields.fromList([["content-type", encode("text/plain")]]);
    const body = wit.Stream(wit.Stream.U8);
    const trailers = wit.Future.from({ tag: "ok", val: null }, wit.Future.RESULT_OPTION_OTHER_ERROR_CODE);
    const [response] = Response.new(headers, body.readable, trailers.readable);
    body.writable
      .writeAll(encode(`Hello from QuickJS: ${request.getPathWithQuery()}\n`))
      .then(() => body.writable.drop());
    return response;
  },
};
