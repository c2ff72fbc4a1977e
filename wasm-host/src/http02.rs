//! Calls of `wasi:http/incoming-handler@0.2`: one request at a time an instance, in the caller's task.
//!
//! Idle instances wait on a list, the last used first: its memory is still in the processor's caches, and the others
//! stay untouched. An instance returns to the list when its call ended well and it may serve more requests; otherwise
//! its store is dropped.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use http::{Request, Response};
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use wasmtime::Store;
use wasmtime::component::InstancePre;
use wasmtime_wasi_http::p2::bindings::http::types::{ErrorCode, Scheme};
use wasmtime_wasi_http::p2::bindings::{Proxy, ProxyPre};
use wasmtime_wasi_http::{WasiBody, WasiHttpView};

use crate::epoch::metered;
use crate::error::CallFailure;
use crate::gate::Gate;
use crate::guest::{Loaded, failure};
use crate::host::Host;
use crate::output::Output;

/// A call in progress. It owns its instance; dropping it discards the store.
pub(crate) type Call = Pin<Box<dyn Future<Output = Result<(), CallFailure>> + Send>>;

type Head = Result<Response<WasiBody>, ErrorCode>;

/// A component of `wasi:http/incoming-handler@0.2`.
pub(crate) struct Http02 {
    loaded: Loaded,
    pre: ProxyPre<Host>,
    gate: Gate,
    idle: Mutex<Vec<Slot>>,
}

/// An instance.
struct Slot {
    store: Store<Host>,
    proxy: Proxy,
    served: u32,
}

impl Http02 {
    pub(crate) fn new(loaded: Loaded, pre: InstancePre<Host>) -> wasmtime::Result<Http02> {
        Ok(Http02 { gate: Gate::new(loaded.instances), pre: ProxyPre::new(pre)?, loaded, idle: Mutex::default() })
    }

    pub(crate) fn output(&self) -> Output {
        Arc::clone(&self.loaded.output)
    }

    pub(crate) async fn warm(&self) -> Result<(), CallFailure> {
        let _permit = self.gate.enter().await?;
        let slot = self.instantiate().await?;
        self.put(slot);
        Ok(())
    }

    /// Waits for the end of every call.
    pub(crate) async fn rest(&self) {
        self.gate.empty().await;
    }

    /// The head of the response, and the call unless it ended with it.
    pub(crate) async fn call(
        self: &Arc<Self>,
        request: Request<WasiBody>,
    ) -> Result<(Response<WasiBody>, Option<Call>), CallFailure> {
        let permit = self.gate.enter().await?;
        let (head_tx, mut head_rx) = oneshot::channel();
        let mut call: Call = Box::pin(Arc::clone(self).run(permit, request, head_tx));
        tokio::select! {
            // The call first: it usually ends in one poll, and then its instance is already free again.
            biased;
            ended = &mut call => {
                ended?;
                let head = head_rx
                    .try_recv()
                    .map_err(|_| CallFailure::new(500, "the guest returned without setting a response"))?;
                Ok((answered(head)?, None))
            }
            head = &mut head_rx => match head {
                Ok(head) => Ok((answered(head)?, Some(call))),
                // The guest dropped its outparam; it may still trap, which says more.
                Err(_) => {
                    call.await?;
                    Err(CallFailure::new(500, "the guest dropped its response-outparam without setting it"))
                }
            },
        }
    }

    /// The permit is declared first and so dropped last: another call may enter only when this one's store is gone.
    async fn run(
        self: Arc<Self>,
        _permit: OwnedSemaphorePermit,
        request: Request<WasiBody>,
        head: oneshot::Sender<Head>,
    ) -> Result<(), CallFailure> {
        let mut slot = match self.take() {
            Some(slot) => slot,
            None => self.instantiate().await?,
        };
        let meter = Arc::clone(slot.store.data().meter());
        meter.reset();
        slot.store.set_epoch_deadline(1);
        let mut view = slot.store.data_mut().http();
        let request = view.new_incoming_request(Scheme::Http, request).map_err(|error| failure(&meter, &error))?;
        let outparam = view.new_response_outparam(head).map_err(|error| failure(&meter, &error))?;
        let handler = slot.proxy.wasi_http_incoming_handler();
        let handled = handler.call_handle(&mut slot.store, request, outparam);
        metered(&meter, &self.loaded.ticker, handled).await.map_err(|error| failure(&meter, &error))?;
        slot.served += 1;
        self.put(slot);
        Ok(())
    }

    async fn instantiate(&self) -> Result<Slot, CallFailure> {
        let mut store = self
            .loaded
            .sandbox
            .store(&self.loaded.engine, &self.loaded.ticker)
            .map_err(|error| CallFailure::new(500, format!("cannot set up the sandbox: {error}")))?;
        let meter = Arc::clone(store.data().meter());
        let proxy = metered(&meter, &self.loaded.ticker, self.pre.instantiate_async(&mut store))
            .await
            .map_err(|error| failure(&meter, &error))?;
        Ok(Slot { store, proxy, served: 0 })
    }

    fn take(&self) -> Option<Slot> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    fn put(&self, slot: Slot) {
        if slot.served < self.loaded.reuse {
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(slot);
        }
    }
}

fn answered(head: Head) -> Result<Response<WasiBody>, CallFailure> {
    head.map_err(|code| CallFailure::new(500, format!("the guest answered with the error {code:?}")))
}
