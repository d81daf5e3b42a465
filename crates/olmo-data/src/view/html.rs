//! Self-contained HTML pages: no script, no other file.

/// Escapes `text` for use as the content of an element.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222;background:#fff}\
h1{font-size:1.4rem}h2{font-size:1.1rem;margin-top:2rem}table{border-collapse:collapse;width:100%}\
td,th{text-align:left;padding:.3rem .6rem;border-bottom:1px solid #ddd;vertical-align:top}\
.error{color:#b00020;font-weight:600}.warning{color:#a05a00;font-weight:600}.info{color:#555}\
pre{white-space:pre-wrap;background:#f6f6f6;padding:.8rem;border-radius:.3rem;overflow-wrap:anywhere}\
.trained{background:#c8f0d0}.masked{color:#777}.note{color:#0550ae}\
@media(prefers-color-scheme:dark){body{color:#ddd;background:#181818}pre{background:#222}td,th{border-color:#444}\
.trained{background:#1d4d2b}.masked{color:#999}.note{color:#79b8ff}.error{color:#ff7b8a}.warning{color:#ffb454}.info{color:#aaa}}";

/// A page with `title` (text) and `body` (markup).
pub fn page(title: &str, body: &str) -> String {
    let title = escape(title);
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width\">\n\
         <title>{title}</title>\n<style>{STYLE}</style>\n<h1>{title}</h1>\n{body}\n</html>\n"
    )
}
