//! Of the worker what reads messages and files.

/// Of its HTTP side the hand-over's messages.
pub mod http {
    /// What comes with a message.
    pub mod watchdog {
        use std::time::Duration;

        /// As the original.
        #[derive(Debug, Default)]
        pub struct Elapsed {
            /// Without progress.
            pub quiet: Duration,
            /// Since a head began.
            pub head: Duration,
        }
    }

    /// The messages themselves.
    pub mod handover {
        mod message;

        use bytes::Bytes;

        use super::watchdog::Elapsed;

        const BATCH: usize = 64;
        const PREFIX_MAX: usize = 64 * 1024;

        /// As the original.
        #[derive(Debug, Default)]
        pub(super) struct Arrival {
            prefix: Bytes,
            elapsed: Elapsed,
        }

        /// Reads a message. What is read can be written again and is the same then.
        pub fn read(bytes: &[u8]) {
            if bytes.len() > message::MESSAGE_MAX {
                return;
            }
            let items = match message::read(Bytes::copy_from_slice(bytes)) {
                Ok(items) => items,
                Err(error) => return drop(error.to_string()),
            };
            let mut writer = message::Writer::new();
            for item in items.clone() {
                let (listener, authority) = (item.listener.clone(), item.authority.clone());
                assert!(writer.push(&listener, &authority, &item.arrival()), "it came in one message");
            }
            assert_eq!(writer.bytes(), bytes);
        }
    }
}

/// Of its plugins what a native one's file says.
pub mod plugin {
    /// Native ones.
    pub mod native {
        pub mod manifest;
    }
}
