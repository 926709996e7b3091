//! `tint`: passes the shaders through headless Chromium, whose compiler (Tint) checks what naga does not, uniformity above all.
//!
//! A page served from this machine (WebGPU wants `https` or `localhost`) fetches each shader, compiles it and posts the report.

use crate::command::{cargo, run, succeeds};
use anyhow::{Context, Result, bail};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

const PAGE: &str = include_str!("tint.html");
const SHADERS: &str = "target/tint/shaders";
/// Chromium keeps its state here, away from the user's own.
const PROFILE: &str = "target/tint/profile";
const TIME_LIMIT: Duration = Duration::from_secs(300);

#[derive(Debug)]
struct Shader {
    name: String,
    code: String,
}

/// Compiles the `.wgsl` files of a folder, by default every permutation that the library may hand to a browser.
pub(crate) fn tint(args: &[String]) -> Result<()> {
    let Some(browser) = find_browser() else {
        eprintln!("\n*** tint: SKIPPED, Chromium is not installed (Debian: `apt-get install chromium`; elsewhere set CHROMIUM) ***\n");
        return Ok(());
    };
    let folder = match args {
        [folder] => folder,
        _ => {
            export()?;
            SHADERS
        }
    };
    let shaders = read_shaders(Path::new(folder))?;
    if shaders.is_empty() {
        bail!("{folder} holds no .wgsl file");
    }
    summarise(&compile(&browser, shaders)?)
}

fn export() -> Result<()> {
    // Permutations that no longer exist would stay behind.
    if Path::new(SHADERS).exists() {
        fs::remove_dir_all(SHADERS)?;
    }
    fs::create_dir_all(SHADERS)?;
    run(cargo(&["run", "--quiet", "--package", "etalon-cli", "--", "bench", "--target", "browser", "--dump-wgsl"]).arg(SHADERS))
}

fn find_browser() -> Option<String> {
    let names = std::env::var("CHROMIUM").into_iter().chain(["chromium", "chromium-browser", "google-chrome"].map(String::from));
    names.into_iter().find(|name| succeeds(name, &["--version"]))
}

fn read_shaders(folder: &Path) -> Result<Vec<Shader>> {
    let mut shaders = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "wgsl") {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let code = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
            shaders.push(Shader { name, code });
        }
    }
    shaders.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(shaders)
}

/// Returns the page's report: one line a finding, its first word the kind.
fn compile(browser: &str, shaders: Vec<Shader>) -> Result<String> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("cannot open a local port")?;
    let url = format!("http://localhost:{}/", listener.local_addr()?.port());
    let (sender, report) = mpsc::channel();
    let shaders = Arc::new(shaders);
    // A thread for each connection, as browsers also open some that they do not use. All end with the process.
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (shaders, sender) = (Arc::clone(&shaders), sender.clone());
            thread::spawn(move || {
                // A broken connection shows as a report that never comes.
                if let Ok(Some(text)) = serve(stream, &shaders) {
                    let _ = sender.send(text);
                }
            });
        }
    });
    let _browser = Browser::start(browser, &url)?;
    report.recv_timeout(TIME_LIMIT).with_context(|| format!("{browser} gave no report within {} seconds", TIME_LIMIT.as_secs()))
}

/// Ends the browser when it is dropped.
struct Browser(Child);

impl Browser {
    fn start(program: &str, url: &str) -> Result<Self> {
        let mut command = Command::new(program);
        // Containers rarely allow the sandbox, and the only page is ours. SwiftShader is the adapter that every Chromium has.
        command.args(["--headless", "--no-sandbox", "--no-first-run", "--enable-unsafe-webgpu", "--enable-features=Vulkan"]);
        command.args(["--use-webgpu-adapter=swiftshader", &format!("--user-data-dir={PROFILE}"), url]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Ok(Self(command.spawn().with_context(|| format!("cannot start {program}"))?))
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Its other processes end when the first one does.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Answers one request; returns the body of a POST, which is the report.
fn serve(stream: TcpStream, shaders: &[Shader]) -> Result<Option<String>> {
    let mut reader = BufReader::new(&stream);
    let mut request = String::new();
    reader.read_line(&mut request)?;
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        match line.trim_end().split_once(':') {
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => length = value.trim().parse()?,
            Some(_) => {}
            None => break,
        }
    }
    let mut words = request.split_whitespace();
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    if method == "POST" {
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        respond(&stream, "200 OK", "text/plain", "")?;
        return Ok(Some(String::from_utf8_lossy(&body).into_owned()));
    }
    let index = path.strip_prefix("/shader/").and_then(|index| index.parse::<usize>().ok());
    match (path, index.and_then(|index| shaders.get(index))) {
        ("/", _) => respond(&stream, "200 OK", "text/html", PAGE)?,
        ("/names", _) => {
            let names: Vec<&str> = shaders.iter().map(|shader| shader.name.as_str()).collect();
            respond(&stream, "200 OK", "text/plain", &names.join("\n"))?;
        }
        (_, Some(shader)) => respond(&stream, "200 OK", "text/plain", &shader.code)?,
        _ => respond(&stream, "404 Not Found", "text/plain", "")?,
    }
    Ok(None)
}

fn respond(mut stream: &TcpStream, status: &str, kind: &str, body: &str) -> Result<()> {
    let length = body.len();
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: {kind}; charset=utf-8\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )?;
    Ok(())
}

fn summarise(report: &str) -> Result<()> {
    let count = |kind: &str| report.lines().filter(|line| line.split(' ').next() == Some(kind)).count();
    for line in report.lines().filter(|line| !line.starts_with("ok ")) {
        println!("{line}");
    }
    let (ok, skipped, failed) = (count("ok"), count("skipped"), count("failed"));
    println!("tint: {ok} shaders compile, {skipped} skipped, {failed} fail");
    if failed > 0 {
        bail!("Chromium rejects {failed} of {} shaders; see above", ok + skipped + failed);
    }
    if ok == 0 {
        bail!("Chromium compiled no shader; see above");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::summarise;

    #[test]
    fn a_report_passes_only_when_something_compiled_and_nothing_failed() {
        assert!(summarise("adapter x\nok a.wgsl\nskipped b.wgsl: no f16").is_ok());
        assert!(summarise("adapter x\nok a.wgsl\nerror b.wgsl:1:2 why\nfailed b.wgsl").is_err());
        assert!(summarise("stopped Error: no WebGPU adapter").is_err());
    }
}
