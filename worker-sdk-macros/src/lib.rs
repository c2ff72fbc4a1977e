//! The attribute macros of `worker-sdk`; use them through that crate.
//!
//! They work on tokens without a parser crate, because compiling one would double the time in which a fresh plugin
//! builds. They find the function's name and hand over to `worker_sdk::__http!`, which the compiler then checks
//! with the author's own types, so that errors point into the author's code.

use proc_macro::{Delimiter, Group, Ident, Punct, Spacing, Span, TokenStream, TokenTree};

/// Makes an `async fn` the plugin's HTTP handler. Documented as `worker_sdk::http`.
#[proc_macro_attribute]
pub fn http(arguments: TokenStream, item: TokenStream) -> TokenStream {
    match expand(arguments, item.clone()) {
        Ok(export) => item.into_iter().chain(export).collect(),
        // The item stays, so that the only error is the real one.
        Err(error) => item.into_iter().chain(error.into_tokens()).collect(),
    }
}

/// Makes a function the plugin that owns the sockets. Documented as `worker_sdk::socket`.
#[proc_macro_attribute]
pub fn socket(arguments: TokenStream, item: TokenStream) -> TokenStream {
    let export = match arguments.into_iter().next() {
        Some(argument) => Err(Error::new(argument.span(), "`#[worker_sdk::socket]` takes no arguments")),
        None => export_socket(item.clone()),
    };
    match export {
        Ok(export) => item.into_iter().chain(export).collect(),
        // As above.
        Err(error) => item.into_iter().chain(error.into_tokens()).collect(),
    }
}

struct Error {
    at: Span,
    message: String,
}

impl Error {
    fn new(at: Span, message: impl Into<String>) -> Self {
        Error { at, message: message.into() }
    }

    fn into_tokens(self) -> TokenStream {
        let text = proc_macro::Literal::string(&self.message);
        let tokens: TokenStream = [
            TokenTree::Ident(Ident::new("compile_error", self.at)),
            punct('!', self.at),
            TokenTree::Group(Group::new(Delimiter::Brace, TokenTree::Literal(text).into())),
        ]
        .into_iter()
        .collect();
        tokens
            .into_iter()
            .map(|mut token| {
                token.set_span(self.at);
                token
            })
            .collect()
    }
}

fn punct(character: char, span: Span) -> TokenTree {
    let mut punct = Punct::new(character, Spacing::Alone);
    punct.set_span(span);
    TokenTree::Punct(punct)
}

/// What stands in the parentheses of the attribute.
#[derive(Default)]
struct Arguments {
    start: TokenStream,
    stop: TokenStream,
    reuse: bool,
}

fn expand(arguments: TokenStream, item: TokenStream) -> Result<TokenStream, Error> {
    let arguments = parse_arguments(arguments)?;
    let Function { name, is_async } = function(item, "put #[worker_sdk::http] on an `async fn`")?;
    if !is_async {
        return Err(Error::new(
            name.span(),
            "the handler must be an `async fn`: `async fn handle(request: Request) -> impl IntoResponse`",
        ));
    }
    let reuse = if arguments.reuse { "true" } else { "false" };
    let mut inner = TokenStream::new();
    let mut push = |key: &str, value: TokenStream| {
        inner.extend([
            TokenTree::Ident(Ident::new(key, Span::call_site())),
            TokenTree::Group(Group::new(Delimiter::Bracket, value)),
        ]);
    };
    push("handle", TokenTree::Ident(name).into());
    push("start", arguments.start);
    push("stop", arguments.stop);
    push("reuse", TokenTree::Ident(Ident::new(reuse, Span::call_site())).into());
    Ok(call("__http", inner))
}

fn export_socket(item: TokenStream) -> Result<TokenStream, Error> {
    let Function { name, is_async } = function(item, "put #[worker_sdk::socket] on a `fn` or an `async fn`")?;
    let runs = if is_async { "asynchronous" } else { "blocking" };
    let bracket = |value: Ident| TokenTree::Group(Group::new(Delimiter::Bracket, TokenTree::Ident(value).into()));
    let word = |word: &str| Ident::new(word, Span::call_site());
    let inner = [TokenTree::Ident(word("serve")), bracket(name), TokenTree::Ident(word("runs")), bracket(word(runs))];
    Ok(call("__socket", inner.into_iter().collect()))
}

/// `::worker_sdk::NAME! { … }`
fn call(name: &str, inner: TokenStream) -> TokenStream {
    let span = Span::call_site();
    [
        colon(span),
        punct(':', span),
        TokenTree::Ident(Ident::new("worker_sdk", span)),
        colon(span),
        punct(':', span),
        TokenTree::Ident(Ident::new(name, span)),
        punct('!', span),
        TokenTree::Group(Group::new(Delimiter::Brace, inner)),
    ]
    .into_iter()
    .collect()
}

fn colon(span: Span) -> TokenTree {
    let mut punct = Punct::new(':', Spacing::Joint);
    punct.set_span(span);
    TokenTree::Punct(punct)
}

/// `start = path, stop = path, reuse`, in any order.
fn parse_arguments(tokens: TokenStream) -> Result<Arguments, Error> {
    let mut arguments = Arguments::default();
    let mut tokens = tokens.into_iter().peekable();
    while let Some(token) = tokens.next() {
        let key = token.to_string();
        let mut value = TokenStream::new();
        if matches!(tokens.peek(), Some(TokenTree::Punct(p)) if p.as_char() == '=') {
            tokens.next();
            while let Some(next) = tokens.next_if(|t| !matches!(t, TokenTree::Punct(p) if p.as_char() == ',')) {
                value.extend([next]);
            }
        }
        let slot = match (key.as_str(), value.is_empty()) {
            ("reuse", true) => {
                arguments.reuse = true;
                None
            }
            ("start", false) => Some(&mut arguments.start),
            ("stop", false) => Some(&mut arguments.stop),
            ("start" | "stop", true) => {
                return Err(Error::new(
                    token.span(),
                    format!("`{key}` needs an async function: `{key} = my_function`"),
                ));
            }
            _ => {
                return Err(Error::new(
                    token.span(),
                    format!("unknown argument `{key}`; known are `start = f`, `stop = f`, `reuse`"),
                ));
            }
        };
        if let Some(slot) = slot {
            if !slot.is_empty() {
                return Err(Error::new(token.span(), format!("`{key}` is given twice")));
            }
            *slot = value;
        }
        match tokens.next() {
            None => break,
            Some(TokenTree::Punct(p)) if p.as_char() == ',' => {}
            Some(other) => return Err(Error::new(other.span(), "expected `,`")),
        }
    }
    Ok(arguments)
}

/// What stands under an attribute.
struct Function {
    name: Ident,
    is_async: bool,
}

/// The function, or `otherwise` as an error.
fn function(item: TokenStream, otherwise: &str) -> Result<Function, Error> {
    let mut is_async = false;
    let mut tokens = item.into_iter();
    while let Some(token) = tokens.next() {
        let TokenTree::Ident(word) = &token else {
            continue;
        };
        match word.to_string().as_str() {
            "async" => is_async = true,
            "fn" => {
                let Some(TokenTree::Ident(name)) = tokens.next() else {
                    break;
                };
                if let Some(TokenTree::Punct(p)) = tokens.next() {
                    if p.as_char() == '<' {
                        return Err(Error::new(p.span(), "it cannot have generic parameters"));
                    }
                }
                return Ok(Function { name, is_async });
            }
            _ => {}
        }
    }
    Err(Error::new(Span::call_site(), otherwise))
}
