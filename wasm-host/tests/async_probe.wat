;; The guest of the tests of wasi:http 0.3: asynchronous exports with a callback.
;; The second byte of the request's path says what to do.
(module
  (import "wasi:http/types@0.3.0" "[constructor]fields" (func $fields (result i32)))
  (import "wasi:http/types@0.3.0" "[method]request.get-path-with-query" (func $path (param i32 i32)))
  (import "wasi:http/types@0.3.0" "[resource-drop]request" (func $drop-request (param i32)))
  (import "wasi:http/types@0.3.0" "[static]response.new" (func $response (param i32 i32 i32 i32 i32)))
  ;; Of response.new: stream 0 is the contents, future 1 the trailers, future 2 what became of the response.
  (import "wasi:http/types@0.3.0" "[stream-new-0][static]response.new" (func $stream-new (result i64)))
  (import "wasi:http/types@0.3.0" "[async-lower][stream-write-0][static]response.new"
    (func $stream-write (param i32 i32 i32) (result i32)))
  (import "wasi:http/types@0.3.0" "[stream-drop-writable-0][static]response.new" (func $stream-drop (param i32)))
  (import "wasi:http/types@0.3.0" "[future-new-1][static]response.new" (func $future-new (result i64)))
  (import "wasi:http/types@0.3.0" "[async-lower][future-write-1][static]response.new"
    (func $future-write (param i32 i32) (result i32)))
  (import "wasi:http/types@0.3.0" "[future-drop-writable-1][static]response.new" (func $future-drop (param i32)))
  (import "wasi:http/types@0.3.0" "[future-drop-readable-2][static]response.new" (func $fate-drop (param i32)))
  (import "[export]wasi:http/handler@0.3.0" "[task-return]handle"
    (func $return (param i32 i32 i32 i64 i32 i32 i32 i32)))
  (import "$root" "[waitable-set-new]" (func $set-new (result i32)))
  (import "$root" "[waitable-join]" (func $join (param i32 i32)))

  (memory (export "memory") 2)
  (global $heap (mut i32) (i32.const 65536))
  (global $count (mut i32) (i32.const 0))
  (data (i32.const 16) "Hello from afar\n")

  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
    (local $p i32)
    (local.set $p (i32.and (i32.add (global.get $heap) (i32.const 7)) (i32.const -8)))
    (global.set $heap (i32.add (local.get $p) (local.get 3)))
    (local.get $p))

  ;; Waits (2) for an event of the set.
  (func $wait (param $set i32) (result i32)
    (i32.or (i32.const 2) (i32.shl (local.get $set) (i32.const 4))))

  ;; The end of the stream, then no trailers.
  (func $end (param $stream i32) (result i32)
    (local $future i32) (local $set i32)
    ;; What belongs to a stream is kept by its handle: the future at 2048, the set at 4096.
    (local.set $future (i32.load offset=2048 (i32.shl (local.get $stream) (i32.const 2))))
    (local.set $set (i32.load offset=4096 (i32.shl (local.get $stream) (i32.const 2))))
    (call $stream-drop (local.get $stream))
    (if (i32.eq (call $future-write (local.get $future) (i32.const 8192)) (i32.const -1))
      (then
        (call $join (local.get $future) (local.get $set))
        (return (call $wait (local.get $set)))))
    (call $future-drop (local.get $future))
    (i32.const 0))

  (func (export "[async-lift]wasi:http/handler@0.3.0#handle") (param $req i32) (result i32)
    (local $what i32) (local $stream i64) (local $future i64) (local $writer i32) (local $set i32) (local $text i32)
    (local $length i32)
    (global.set $heap (i32.const 65536))
    (global.set $count (i32.add (global.get $count) (i32.const 1)))
    (call $path (local.get $req) (i32.const 256))
    (local.set $what (i32.load8_u offset=1 (i32.load (i32.const 260))))
    (call $drop-request (local.get $req))
    (if (i32.eq (local.get $what) (i32.const 0x74)) ;; t: trap
      (then (unreachable)))
    (if (i32.eq (local.get $what) (i32.const 0x6c)) ;; l: loop
      (then (loop $for-ever (br $for-ever))))
    (if (i32.eq (local.get $what) (i32.const 0x65)) ;; e: an error code
      (then
        (call $return (i32.const 1) (i32.const 36) (i32.const 0) (i64.const 0)
          (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0))
        (return (i32.const 0))))
    (local.set $text (i32.const 16))
    (local.set $length (i32.const 16))
    (if (i32.eq (local.get $what) (i32.const 0x63)) ;; c: requests served by this instance, this one included
      (then
        (i32.store8 (i32.const 600) (i32.add (i32.const 48) (global.get $count)))
        (local.set $text (i32.const 600))
        (local.set $length (i32.const 1))))
    (local.set $stream (call $stream-new))
    (local.set $future (call $future-new))
    (local.set $writer (i32.wrap_i64 (i64.shr_u (local.get $stream) (i64.const 32))))
    (call $response (call $fields) (i32.const 1) (i32.wrap_i64 (local.get $stream))
      (i32.wrap_i64 (local.get $future)) (i32.const 256))
    (call $fate-drop (i32.load (i32.const 260)))
    (call $return (i32.const 0) (i32.load (i32.const 256)) (i32.const 0) (i64.const 0)
      (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0))
    (if (i32.eq (local.get $what) (i32.const 0x54)) ;; T: trap after the head
      (then (unreachable)))
    (local.set $set (call $set-new))
    (i32.store offset=2048 (i32.shl (local.get $writer) (i32.const 2))
      (i32.wrap_i64 (i64.shr_u (local.get $future) (i64.const 32))))
    (i32.store offset=4096 (i32.shl (local.get $writer) (i32.const 2)) (local.get $set))
    (if (i32.eq (call $stream-write (local.get $writer) (local.get $text) (local.get $length)) (i32.const -1))
      (then
        (call $join (local.get $writer) (local.get $set))
        (return (call $wait (local.get $set)))))
    (call $end (local.get $writer)))

  (func (export "[callback][async-lift]wasi:http/handler@0.3.0#handle")
    (param $event i32) (param $handle i32) (param $result i32) (result i32)
    (if (i32.eq (local.get $event) (i32.const 3)) ;; the stream was written
      (then (return (call $end (local.get $handle)))))
    (call $future-drop (local.get $handle))
    (i32.const 0))
)
