//! The same application without a launcher: what `bench` compares with.

use std::io::{self, Write};

use tokio::net::TcpListener;

fn main() -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        writeln!(io::stdout(), "listening on {}", listener.local_addr()?)?;
        axum::serve(listener, axum_app::app()).await
    })
}
