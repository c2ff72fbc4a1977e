;; A whole HTTP plugin, written by hand: it needs no compiler and no WASM toolchain.
;;
;; `launcher` serves any component that exports `wasi:http/incoming-handler`; compilers usually make one from a
;; few lines of Rust, JavaScript, Python or C. This file shows what they make. Change the text, save, and look
;; how the running launcher swaps it in. (The new text must keep its length, or change $text-length and the
;; content-length as well.)
;;
;; It has three parts:
;;   1. the imports: the pieces of WASI 0.2.0 that it uses, with their types;
;;   2. two core modules: a memory, and the code;
;;   3. the glue: core functions made from the imports (`canon lower`), the export made from core code (`canon lift`).
;;
;; The types are those of the WIT packages wasi:io@0.2.0 and wasi:http@0.2.0. A host with a later 0.2 version
;; accepts them too. An import names only what is used of an interface.
(component

  ;; ---- 1. The imports ----------------------------------------------------------------------------------------

  (import "wasi:io/error@0.2.0" (instance $error-interface
    (export "error" (type (sub resource)))
  ))
  (alias export $error-interface "error" (type $error))

  (import "wasi:io/streams@0.2.0" (instance $streams
    (export "output-stream" (type $output-stream (sub resource)))
    (alias outer 1 $error (type $error-outside))
    (export "error" (type $error (eq $error-outside)))
    (type $stream-error-cases (variant (case "last-operation-failed" (own $error)) (case "closed")))
    (export "stream-error" (type $stream-error (eq $stream-error-cases)))

    ;; Writes up to 4,096 bytes and waits until they are on their way.
    (export "[method]output-stream.blocking-write-and-flush" (func
      (param "self" (borrow $output-stream)) (param "contents" (list u8))
      (result (result (error $stream-error)))))
  ))
  (alias export $streams "output-stream" (type $output-stream))

  (import "wasi:http/types@0.2.0" (instance $http
    (alias outer 1 $output-stream (type $output-stream-outside))
    (export "output-stream" (type $output-stream (eq $output-stream-outside)))

    (export "fields" (type $fields (sub resource)))
    (export "incoming-request" (type $incoming-request (sub resource)))
    (export "outgoing-response" (type $outgoing-response (sub resource)))
    (export "outgoing-body" (type $outgoing-body (sub resource)))
    (export "response-outparam" (type $response-outparam (sub resource)))

    (type $header-error-cases (variant (case "invalid-syntax") (case "forbidden") (case "immutable")))
    (export "header-error" (type $header-error (eq $header-error-cases)))

    ;; What a handler may answer instead of a response. It is long, and it is never made here, but its type is
    ;; part of the type of `response-outparam.set`.
    (type $dns-error-record (record (field "rcode" (option string)) (field "info-code" (option u16))))
    (export "DNS-error-payload" (type $dns-error (eq $dns-error-record)))
    (type $tls-alert-record (record (field "alert-id" (option u8)) (field "alert-message" (option string))))
    (export "TLS-alert-received-payload" (type $tls-alert (eq $tls-alert-record)))
    (type $field-size-record (record (field "field-name" (option string)) (field "field-size" (option u32))))
    (export "field-size-payload" (type $field-size (eq $field-size-record)))
    (type $error-code-cases (variant
      (case "DNS-timeout")
      (case "DNS-error" $dns-error)
      (case "destination-not-found")
      (case "destination-unavailable")
      (case "destination-IP-prohibited")
      (case "destination-IP-unroutable")
      (case "connection-refused")
      (case "connection-terminated")
      (case "connection-timeout")
      (case "connection-read-timeout")
      (case "connection-write-timeout")
      (case "connection-limit-reached")
      (case "TLS-protocol-error")
      (case "TLS-certificate-error")
      (case "TLS-alert-received" $tls-alert)
      (case "HTTP-request-denied")
      (case "HTTP-request-length-required")
      (case "HTTP-request-body-size" (option u64))
      (case "HTTP-request-method-invalid")
      (case "HTTP-request-URI-invalid")
      (case "HTTP-request-URI-too-long")
      (case "HTTP-request-header-section-size" (option u32))
      (case "HTTP-request-header-size" (option $field-size))
      (case "HTTP-request-trailer-section-size" (option u32))
      (case "HTTP-request-trailer-size" $field-size)
      (case "HTTP-response-incomplete")
      (case "HTTP-response-header-section-size" (option u32))
      (case "HTTP-response-header-size" $field-size)
      (case "HTTP-response-body-size" (option u64))
      (case "HTTP-response-trailer-section-size" (option u32))
      (case "HTTP-response-trailer-size" $field-size)
      (case "HTTP-response-transfer-coding" (option string))
      (case "HTTP-response-content-coding" (option string))
      (case "HTTP-response-timeout")
      (case "HTTP-upgrade-failed")
      (case "HTTP-protocol-error")
      (case "loop-detected")
      (case "configuration-error")
      (case "internal-error" (option string))))
    (export "error-code" (type $error-code (eq $error-code-cases)))

    ;; The headers of a response, from name and value pairs.
    (export "[static]fields.from-list" (func
      (param "entries" (list (tuple string (list u8))))
      (result (result (own $fields) (error $header-error)))))
    ;; A response with these headers, and status 200 unless it is changed.
    (export "[constructor]outgoing-response" (func
      (param "headers" (own $fields)) (result (own $outgoing-response))))
    (export "[method]outgoing-response.body" (func
      (param "self" (borrow $outgoing-response)) (result (result (own $outgoing-body)))))
    (export "[method]outgoing-body.write" (func
      (param "self" (borrow $outgoing-body)) (result (result (own $output-stream)))))
    ;; Without it the client is told that the body is incomplete.
    (export "[static]outgoing-body.finish" (func
      (param "this" (own $outgoing-body)) (param "trailers" (option (own $fields)))
      (result (result (error $error-code)))))
    ;; Sends the head of the response; the body may follow.
    (export "[static]response-outparam.set" (func
      (param "param" (own $response-outparam))
      (param "response" (result (own $outgoing-response) (error $error-code)))))
  ))
  (alias export $http "incoming-request" (type $incoming-request))
  (alias export $http "response-outparam" (type $response-outparam))

  ;; ---- 2. The core modules -----------------------------------------------------------------------------------

  ;; The memory has its own module: the lowered imports need it before the code that calls them can exist.
  (core module $memory-module
    ;; One page. 0: the headers; 256: their text; 512: the body; 1024: results; 4096: texts from the host.
    (memory (export "memory") 1)

    ;; list<tuple<string, list<u8>>>: for each header the address and length of its name and of its value.
    (data (i32.const 0) (i32 256 12 288 25)
                        (i32 320 14 352 2))
    (data (i32.const 256) "content-type")
    (data (i32.const 288) "text/plain; charset=utf-8")
    (data (i32.const 320) "content-length")
    (data (i32.const 352) "24")

    (data (i32.const 512) "Hello from WebAssembly!\n")

    ;; The host asks for room for a text that it returns. Only the explanation inside an error is one, no error
    ;; has two, and nobody here reads it: the same place does every time.
    (func (export "realloc") (param $old i32) (param $old-size i32) (param $align i32) (param $size i32) (result i32)
      (if (i32.gt_u (local.get $size) (i32.const 61440)) (then unreachable))
      (i32.const 4096))
  )

  (core module $code-module
    (import "memory" "memory" (memory 1))
    (import "http" "drop-request" (func $drop-request (param i32)))
    (import "http" "fields-from-list" (func $fields-from-list (param $list i32) (param $length i32) (param $result i32)))
    (import "http" "new-response" (func $new-response (param $fields i32) (result i32)))
    (import "http" "response-body" (func $response-body (param $response i32) (param $result i32)))
    (import "http" "body-write" (func $body-write (param $body i32) (param $result i32)))
    (import "http" "body-finish" (func $body-finish
      (param $body i32) (param $has-trailers i32) (param $trailers i32) (param $result i32)))
    ;; The parameters after the second are room for the largest error code.
    (import "http" "set-response" (func $set-response
      (param $out i32) (param $is-error i32) (param $response i32) (param i32 i64 i32 i32 i32 i32)))
    (import "streams" "write" (func $write (param $stream i32) (param $text i32) (param $length i32) (param $result i32)))
    (import "streams" "drop" (func $drop-stream (param i32)))

    (global $result i32 (i32.const 1024))      ;; where imports put what they return
    (global $text i32 (i32.const 512))
    (global $text-length i32 (i32.const 24))

    ;; A `result<own<…>>` that an import returned: a tag (0: ok), and the handle 4 bytes further.
    (func $handle-returned (result i32)
      (if (i32.load8_u (global.get $result)) (then unreachable))
      (i32.load offset=4 (global.get $result)))

    ;; handle: func(request: incoming-request, response-out: response-outparam)
    (func (export "handle") (param $request i32) (param $out i32)
      (local $response i32) (local $body i32) (local $stream i32)

      ;; Every path and method gets the same answer. To a HEAD request the host sends the head alone.
      (call $drop-request (local.get $request))

      (call $fields-from-list (i32.const 0) (i32.const 2) (global.get $result))
      (local.set $response (call $new-response (call $handle-returned)))
      (call $response-body (local.get $response) (global.get $result))
      (local.set $body (call $handle-returned))

      ;; The head goes out first: nobody reads the body before it.
      (call $set-response (local.get $out) (i32.const 0) (local.get $response)
        (i32.const 0) (i64.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0))

      ;; The client may be gone, or may have asked for the head only: what these two return does not matter.
      (call $body-write (local.get $body) (global.get $result))
      (local.set $stream (call $handle-returned))
      (call $write (local.get $stream) (global.get $text) (global.get $text-length) (global.get $result))

      ;; A body can be finished only after its stream is gone.
      (call $drop-stream (local.get $stream))
      (call $body-finish (local.get $body) (i32.const 0) (i32.const 0) (global.get $result)))
  )

  ;; ---- 3. The glue -------------------------------------------------------------------------------------------

  (core instance $memory (instantiate $memory-module))
  (alias core export $memory "memory" (core memory $mem))
  (alias core export $memory "realloc" (core func $realloc))

  (core func $drop-request (canon resource.drop $incoming-request))
  (core func $drop-stream (canon resource.drop $output-stream))
  (core func $fields-from-list (canon lower (func $http "[static]fields.from-list") (memory $mem)))
  (core func $new-response (canon lower (func $http "[constructor]outgoing-response")))
  (core func $response-body (canon lower (func $http "[method]outgoing-response.body") (memory $mem)))
  (core func $body-write (canon lower (func $http "[method]outgoing-body.write") (memory $mem)))
  (core func $body-finish (canon lower (func $http "[static]outgoing-body.finish") (memory $mem) (realloc $realloc)))
  (core func $set-response (canon lower (func $http "[static]response-outparam.set") (memory $mem)))
  (core func $write (canon lower (func $streams "[method]output-stream.blocking-write-and-flush") (memory $mem)))

  (core instance $code (instantiate $code-module
    (with "memory" (instance $memory))
    (with "http" (instance
      (export "drop-request" (func $drop-request))
      (export "fields-from-list" (func $fields-from-list))
      (export "new-response" (func $new-response))
      (export "response-body" (func $response-body))
      (export "body-write" (func $body-write))
      (export "body-finish" (func $body-finish))
      (export "set-response" (func $set-response))))
    (with "streams" (instance
      (export "write" (func $write))
      (export "drop" (func $drop-stream))))))

  (alias core export $code "handle" (core func $core-handle))
  (func $handle (param "request" (own $incoming-request)) (param "response-out" (own $response-outparam))
    (canon lift (core func $core-handle)))
  (instance $incoming-handler (export "handle" (func $handle)))
  (export "wasi:http/incoming-handler@0.2.0" (instance $incoming-handler))
)
