;; The guest of this crate's tests: a core module that wit-component makes a component of.
;; The second byte of the request's path says what to do; every answer is a body of text.
(module
  (import "wasi:http/types@0.2.3" "[constructor]fields" (func $fields (result i32)))
  (import "wasi:http/types@0.2.3" "[method]fields.append" (func $append (param i32 i32 i32 i32 i32 i32)))
  (import "wasi:http/types@0.2.3" "[method]incoming-request.path-with-query" (func $path (param i32 i32)))
  (import "wasi:http/types@0.2.3" "[method]incoming-request.consume" (func $consume (param i32 i32)))
  (import "wasi:http/types@0.2.3" "[method]incoming-body.stream" (func $stream (param i32 i32)))
  (import "wasi:http/types@0.2.3" "[static]incoming-body.finish" (func $trailers (param i32) (result i32)))
  (import "wasi:http/types@0.2.3" "[method]future-trailers.subscribe" (func $trailers-subscribe (param i32) (result i32)))
  (import "wasi:http/types@0.2.3" "[method]future-trailers.get" (func $trailers-get (param i32 i32)))
  (import "wasi:http/types@0.2.3" "[resource-drop]future-trailers" (func $drop-trailers (param i32)))
  (import "wasi:http/types@0.2.3" "[constructor]outgoing-response" (func $response (param i32) (result i32)))
  (import "wasi:http/types@0.2.3" "[method]outgoing-response.body" (func $body (param i32 i32)))
  (import "wasi:http/types@0.2.3" "[method]outgoing-body.write" (func $write (param i32 i32)))
  (import "wasi:http/types@0.2.3" "[static]outgoing-body.finish" (func $finish (param i32 i32 i32 i32)))
  (import "wasi:http/types@0.2.3" "[static]response-outparam.set"
    (func $set (param i32 i32 i32 i32 i64 i32 i32 i32 i32)))
  (import "wasi:http/types@0.2.3" "[resource-drop]incoming-request" (func $drop-request (param i32)))
  (import "wasi:http/types@0.2.3" "[constructor]outgoing-request" (func $request (param i32) (result i32)))
  (import "wasi:http/types@0.2.3" "[method]outgoing-request.set-path-with-query"
    (func $set-path (param i32 i32 i32 i32) (result i32)))
  (import "wasi:http/types@0.2.3" "[method]outgoing-request.set-scheme"
    (func $set-scheme (param i32 i32 i32 i32 i32) (result i32)))
  (import "wasi:http/types@0.2.3" "[method]outgoing-request.set-authority"
    (func $set-authority (param i32 i32 i32 i32) (result i32)))
  (import "wasi:http/types@0.2.3" "[method]future-incoming-response.subscribe" (func $sent (param i32) (result i32)))
  (import "wasi:http/types@0.2.3" "[method]future-incoming-response.get" (func $received (param i32 i32)))
  (import "wasi:http/types@0.2.3" "[resource-drop]future-incoming-response" (func $drop-future (param i32)))
  (import "wasi:http/outgoing-handler@0.2.3" "handle" (func $send (param i32 i32 i32 i32)))
  (import "wasi:io/poll@0.2.3" "[method]pollable.block" (func $block (param i32)))
  (import "wasi:io/poll@0.2.3" "[resource-drop]pollable" (func $drop-pollable (param i32)))
  (import "wasi:io/streams@0.2.3" "[method]input-stream.blocking-read" (func $read (param i32 i64 i32)))
  (import "wasi:io/streams@0.2.3" "[resource-drop]input-stream" (func $drop-input (param i32)))
  (import "wasi:io/streams@0.2.3" "[method]output-stream.blocking-write-and-flush" (func $put (param i32 i32 i32 i32)))
  (import "wasi:io/streams@0.2.3" "[resource-drop]output-stream" (func $drop-output (param i32)))
  (import "wasi:cli/environment@0.2.3" "get-environment" (func $environment (param i32)))
  (import "wasi:cli/stdout@0.2.3" "get-stdout" (func $stdout (result i32)))
  (import "wasi:cli/exit@0.2.3" "exit" (func $exit (param i32)))
  (import "wasi:clocks/monotonic-clock@0.2.3" "subscribe-duration" (func $timer (param i64) (result i32)))
  (import "wasi:config/store@0.2.0-rc.1" "get" (func $config (param i32 i32 i32)))
  (import "wasi:filesystem/preopens@0.2.3" "get-directories" (func $directories (param i32)))

  (memory (export "memory") 2)
  (global $heap (mut i32) (i32.const 65536))
  ;; What survives a request in a reused instance.
  (global $count (mut i32) (i32.const 0))

  (data (i32.const 16) "Hello from the probe\n")
  (data (i32.const 48) "refused")
  (data (i32.const 56) "granted")
  (data (i32.const 64) "content-length")
  (data (i32.const 80) "21")
  (data (i32.const 96) "one\ntwo")
  (data (i32.const 112) "key")
  (data (i32.const 128) "x-end")
  (data (i32.const 136) "yes")

  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
    (local $p i32)
    (local.set $p (i32.and (i32.add (global.get $heap) (i32.const 7)) (i32.const -8)))
    (global.set $heap (i32.add (local.get $p) (local.get 3)))
    (local.get $p))

  ;; Sets the head of the response; leaves the body's handle at 512 and returns its stream.
  (func $answer (param $out i32) (param $fields i32) (result i32)
    (local $r i32)
    (local.set $r (call $response (local.get $fields)))
    (call $body (local.get $r) (i32.const 256))
    (i32.store (i32.const 512) (i32.load (i32.const 260)))
    (call $set (local.get $out) (i32.const 0) (local.get $r)
      (i32.const 0) (i64.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0))
    (call $write (i32.load (i32.const 512)) (i32.const 256))
    (i32.load (i32.const 260)))

  (func $end (param $stream i32)
    (call $drop-output (local.get $stream))
    (call $finish (i32.load (i32.const 512)) (i32.const 0) (i32.const 0) (i32.const 256)))

  (func $say (param $out i32) (param $text i32) (param $length i32)
    (local $s i32)
    (local.set $s (call $answer (local.get $out) (call $fields)))
    (call $put (local.get $s) (local.get $text) (local.get $length) (i32.const 256))
    (call $end (local.get $s)))

  (func $say-byte (param $out i32) (param $byte i32)
    (i32.store8 (i32.const 600) (local.get $byte))
    (call $say (local.get $out) (i32.const 600) (i32.const 1)))

  (func $hello (param $out i32)
    (local $f i32) (local $s i32)
    (local.set $f (call $fields))
    (call $append (local.get $f) (i32.const 64) (i32.const 14) (i32.const 80) (i32.const 2) (i32.const 256))
    (local.set $s (call $answer (local.get $out) (local.get $f)))
    (call $put (local.get $s) (i32.const 16) (i32.const 21) (i32.const 256))
    (call $end (local.get $s)))

  ;; The request's body, then a trailer of its own, or the request's trailers if it has any.
  (func $echo (param $req i32) (param $out i32)
    (local $in i32) (local $body i32) (local $s i32) (local $future i32) (local $pollable i32) (local $t i32)
    (call $consume (local.get $req) (i32.const 256))
    (local.set $body (i32.load (i32.const 260)))
    (call $stream (local.get $body) (i32.const 256))
    (local.set $in (i32.load (i32.const 260)))
    (local.set $s (call $answer (local.get $out) (call $fields)))
    (block $done
      (loop $more
        (global.set $heap (i32.const 65536))
        (call $read (local.get $in) (i64.const 4096) (i32.const 256))
        (br_if $done (i32.load8_u (i32.const 256)))
        (call $put (local.get $s) (i32.load (i32.const 260)) (i32.load (i32.const 264)) (i32.const 272))
        (br_if $done (i32.load8_u (i32.const 272)))
        (br $more)))
    (call $drop-input (local.get $in))
    (local.set $future (call $trailers (local.get $body)))
    (local.set $pollable (call $trailers-subscribe (local.get $future)))
    (call $block (local.get $pollable))
    (call $drop-pollable (local.get $pollable))
    ;; option<result<result<option<fields>, error-code>>>: discriminants at 0, 8, 16, 24; the fields at 28.
    (call $trailers-get (local.get $future) (i32.const 704))
    (call $drop-trailers (local.get $future))
    (if (i32.and (i32.eqz (i32.load8_u (i32.const 720))) (i32.load8_u (i32.const 728)))
      (then (local.set $t (i32.load (i32.const 732))))
      (else
        (local.set $t (call $fields))
        (call $append (local.get $t) (i32.const 128) (i32.const 5) (i32.const 136) (i32.const 3) (i32.const 256))))
    (call $drop-output (local.get $s))
    (call $finish (i32.load (i32.const 512)) (i32.const 1) (local.get $t) (i32.const 256)))

  ;; Sends a request to the authority after the path's third byte; answers R for a response, else A + the error code.
  (func $fetch (param $out i32) (param $authority i32) (param $length i32)
    (local $r i32) (local $future i32) (local $pollable i32)
    (local.set $r (call $request (call $fields)))
    (drop (call $set-scheme (local.get $r) (i32.const 1) (i32.const 0) (i32.const 0) (i32.const 0)))
    (i32.store8 (i32.const 600) (i32.const 47))
    (drop (call $set-path (local.get $r) (i32.const 1) (i32.const 600) (i32.const 1)))
    (drop (call $set-authority (local.get $r) (i32.const 1) (local.get $authority) (local.get $length)))
    (call $send (local.get $r) (i32.const 0) (i32.const 0) (i32.const 256))
    (local.set $future (i32.load (i32.const 264)))
    (local.set $pollable (call $sent (local.get $future)))
    (call $block (local.get $pollable))
    (call $drop-pollable (local.get $pollable))
    (call $received (local.get $future) (i32.const 704))
    (call $drop-future (local.get $future))
    (call $say-byte (local.get $out)
      (select
        (i32.add (i32.const 65) (i32.load8_u (i32.const 728)))
        (i32.const 82)
        (i32.load8_u (i32.const 720)))))

  (func $sleep (param $nanoseconds i64)
    (local $pollable i32)
    (local.set $pollable (call $timer (local.get $nanoseconds)))
    (call $block (local.get $pollable))
    (call $drop-pollable (local.get $pollable)))

  (func (export "wasi:http/incoming-handler@0.2.3#handle") (param $req i32) (param $out i32)
    (local $what i32) (local $text i32) (local $s i32)
    (global.set $heap (i32.const 65536))
    (global.set $count (i32.add (global.get $count) (i32.const 1)))
    (call $path (local.get $req) (i32.const 256))
    (local.set $text (i32.load (i32.const 260)))
    (local.set $what (i32.load8_u offset=1 (local.get $text)))
    (if (i32.eq (local.get $what) (i32.const 0x65)) ;; e: echo
      (then (call $echo (local.get $req) (local.get $out)) (call $drop-request (local.get $req)) (return)))
    (call $drop-request (local.get $req))
    (if (i32.eq (local.get $what) (i32.const 0x68)) ;; h: hello
      (then (call $hello (local.get $out)) (return)))
    (if (i32.eq (local.get $what) (i32.const 0x74)) ;; t: trap
      (then (unreachable)))
    (if (i32.eq (local.get $what) (i32.const 0x54)) ;; T: trap in the middle of the body
      (then
        (local.set $s (call $answer (local.get $out) (call $fields)))
        (call $put (local.get $s) (i32.const 16) (i32.const 5) (i32.const 256))
        (call $sleep (i64.const 1000000))
        (unreachable)))
    (if (i32.eq (local.get $what) (i32.const 0x6c)) ;; l: loop
      (then (loop $for-ever (br $for-ever))))
    (if (i32.eq (local.get $what) (i32.const 0x6e)) ;; n: no response
      (then (return)))
    (if (i32.eq (local.get $what) (i32.const 0x75)) ;; u: unfinished body
      (then
        (local.set $s (call $answer (local.get $out) (call $fields)))
        (call $put (local.get $s) (i32.const 16) (i32.const 5) (i32.const 256))
        (return)))
    (if (i32.eq (local.get $what) (i32.const 0x6d)) ;; m: 64 MiB more memory
      (then
        (if (i32.eq (memory.grow (i32.const 1024)) (i32.const -1))
          (then (call $say (local.get $out) (i32.const 48) (i32.const 7)))
          (else (call $say (local.get $out) (i32.const 56) (i32.const 7))))
        (return)))
    (if (i32.eq (local.get $what) (i32.const 0x63)) ;; c: requests served by this instance, this one included
      (then (call $say-byte (local.get $out) (i32.add (i32.const 48) (global.get $count))) (return)))
    (if (i32.eq (local.get $what) (i32.const 0x76)) ;; v: number of environment variables
      (then
        (call $environment (i32.const 256))
        (call $say-byte (local.get $out) (i32.add (i32.const 48) (i32.load (i32.const 260))))
        (return)))
    (if (i32.eq (local.get $what) (i32.const 0x67)) ;; g: the configuration's "key", or -
      (then
        (call $config (i32.const 112) (i32.const 3) (i32.const 256))
        (if (i32.load8_u (i32.const 260))
          (then (call $say (local.get $out) (i32.load (i32.const 264)) (i32.load (i32.const 268))))
          (else (call $say-byte (local.get $out) (i32.const 45))))
        (return)))
    (if (i32.eq (local.get $what) (i32.const 0x64)) ;; d: number of directories
      (then
        (call $directories (i32.const 256))
        (call $say-byte (local.get $out) (i32.add (i32.const 48) (i32.load (i32.const 260))))
        (return)))
    (if (i32.eq (local.get $what) (i32.const 0x6f)) ;; o: outgoing request
      (then
        (call $fetch (local.get $out)
          (i32.add (local.get $text) (i32.const 3))
          (i32.sub (i32.load (i32.const 264)) (i32.const 3)))
        (return)))
    (if (i32.eq (local.get $what) (i32.const 0x70)) ;; p: print
      (then
        (local.set $s (call $stdout))
        (call $put (local.get $s) (i32.const 96) (i32.const 7) (i32.const 256))
        (call $drop-output (local.get $s))
        (call $hello (local.get $out))
        (return)))
    (if (i32.eq (local.get $what) (i32.const 0x73)) ;; s: sleep for 50 ms, then hello
      (then
        (call $sleep (i64.const 50000000))
        (call $hello (local.get $out))
        (return)))
    (if (i32.eq (local.get $what) (i32.const 0x61)) ;; a: print after the end of the response
      (then
        (call $hello (local.get $out))
        (call $sleep (i64.const 1000000))
        (local.set $s (call $stdout))
        (call $put (local.get $s) (i32.const 96) (i32.const 7) (i32.const 256))
        (call $drop-output (local.get $s))
        (return)))
    (if (i32.eq (local.get $what) (i32.const 0x78)) ;; x: exit
      (then (call $exit (i32.const 1)))))
)
