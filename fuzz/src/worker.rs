//! Of the worker what reads messages and files.

/// Of its HTTP side the hand-over's messages and the heads of proxies.
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

        use crate::sys::accept::PeerAddress;

        const BATCH: usize = 64;
        const PREFIX_MAX: usize = 64 * 1024;

        /// As the original.
        #[derive(Debug, Default)]
        pub(super) struct Arrival {
            prefix: Bytes,
            elapsed: Elapsed,
            origin: Origin,
        }

        /// As the original.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        pub(super) enum Origin {
            #[default]
            Socket,
            Due,
            Announced(PeerAddress),
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
            let mut writer = message::Writer::new(bytes[0] == 2);
            for item in items.clone() {
                let (listener, authority) = (item.listener.clone(), item.authority.clone());
                assert!(writer.push(&listener, &authority, &item.arrival()), "it came in one message");
            }
            assert_eq!(writer.bytes(), bytes);
        }
    }

    /// What a proxy says before its client.
    pub mod proxy_protocol;

    /// Reads the head of a proxy: it lies within what was sent, and more of what comes behind it changes nothing.
    pub fn proxy_head(bytes: &[u8]) {
        match proxy_protocol::read(bytes) {
            Ok(Some(head)) => {
                assert!(head.length <= bytes.len().min(proxy_protocol::MOST), "{head:?}");
                assert_eq!(proxy_protocol::read(&bytes[..head.length]), Ok(Some(head)));
                assert_eq!(proxy_protocol::read(&bytes[..head.length - 1]), Ok(None));
            }
            Ok(None) => assert!(bytes.len() < proxy_protocol::MOST),
            Err(error) => drop(error.to_string()),
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
