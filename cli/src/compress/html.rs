//! A report as one page that needs nothing else.

use serde_json::Value;
use std::fmt::Write as _;

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem;color:#1a1a1a}\
h1{font-size:1.5rem}h2{font-size:1.1rem;margin-top:2rem}table{border-collapse:collapse;font-variant-numeric:tabular-nums}\
td,th{padding:.15rem .7rem .15rem 0;text-align:right}td:first-child,th:first-child{text-align:left}th{border-bottom:1px solid #999}\
.grid td{padding:.25rem .6rem;text-align:center;color:#fff;min-width:3.5rem}.note{color:#555;font-size:.9rem}svg text{font:11px system-ui,sans-serif}";

/// Colours of widths from few bits to many, light to dark.
fn colour(bits: u64) -> &'static str {
    match bits {
        0..=2 => "#8fb8de",
        3 => "#5b97cf",
        4 => "#2f78b7",
        5 => "#1c5f9c",
        6 => "#124a80",
        7..=8 => "#0a3563",
        _ => "#06213f",
    }
}

/// The page of a `report.json`.
pub(super) fn page(j: &Value) -> String {
    let mut out = format!(
        "<!doctype html><html lang=en><meta charset=utf-8><title>{0}</title><style>{STYLE}</style><h1>{0}</h1>",
        escape(&format!("Quantised: {}", text(&j["model"])))
    );
    out += &summary(j);
    out += &grid(j);
    out += &sensitivities(j);
    out += &table(j);
    out + "</html>\n"
}

fn text(v: &Value) -> String {
    v.as_str().map_or_else(|| v.to_string(), str::to_owned)
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn number(v: &Value) -> String {
    match v.as_f64() {
        None => "-".into(),
        Some(x) if x == 0.0 || (1e-2..1e6).contains(&x.abs()) => format!("{x:.4}"),
        Some(x) => format!("{x:.3e}"),
    }
}

fn summary(j: &Value) -> String {
    let rows = [
        ("Bits per linear weight, scales and zero points counted", "/bits_per_linear_weight"),
        ("Bits per weight of the whole model", "/bits_per_weight"),
        ("Times smaller than f16, whole model", "/times_smaller_than_f16"),
        ("Times smaller than f16, linear layers", "/linear_weights_times_smaller_than_f16"),
        ("Times smaller than f32, whole model (the paper's figure is against f32)", "/times_smaller_than_f32"),
        ("Loss that was expected, the sum over units", "/predicted_loss"),
        ("Loss of the first choice as a whole, calibration text", "/refinement/before"),
        ("The same after refinement", "/refinement/after"),
        ("The same with one width for all", "/refinement/uniform"),
        ("KL divergence of the written model, nats", "/quality/mean_kl"),
        ("Perplexity before", "/quality/perplexity_before"),
        ("Perplexity", "/quality/perplexity"),
        ("Mean cosine to the embeddings before", "/quality/mean_cosine"),
        ("Least cosine", "/quality/least_cosine"),
        ("Decoding, tokens a second", "/speed/decode_tokens_per_s"),
        ("The same with f32 weights", "/speed/decode_tokens_per_s_f32"),
        ("Similarity of layers that have nothing in common (CMPQ's null)", "/chance"),
    ];
    let mut out = String::from("<table>");
    for (what, path) in rows {
        if let Some(v) = j.pointer(path).filter(|v| !v.is_null()) {
            let _ = write!(out, "<tr><td>{what}<td>{}", number(v));
        }
    }
    let judged = if j["judged_on_own_text"] == true {
        "a text that it was not calibrated on"
    } else {
        "the calibration text itself, which flatters it"
    };
    let _ = write!(
        out,
        "</table><p class=note>Rounding: {}. Scored on {} tokens, judged on {} tokens of {judged}. {}{}{}</p>",
        escape(&text(&j["rounding"])),
        j["calibration"]["tokens"],
        j["quality"]["tokens"],
        if j["calibration"]["few"] == true { "Fewer than 512 tokens of calibration say little. " } else { "" },
        if j["refinement"]["fell_back_to_uniform"] == true {
            "The choice lost more than one width for all, which was taken instead. "
        } else {
            ""
        },
        escape(&text(&j["adapter"])),
    );
    out
}

/// Bits by layer and site.
fn grid(j: &Value) -> String {
    let Some(units) = j["units"].as_array() else { return String::new() };
    let mut sites: Vec<String> = Vec::new();
    units.iter().map(|u| text(&u["site"])).for_each(|s| {
        if !sites.contains(&s) {
            sites.push(s);
        }
    });
    let mut out = String::from("<h2>Bits by layer</h2><table class=grid><tr><th>layer");
    sites.iter().for_each(|s| out += &format!("<th>{}", escape(s)));
    let blocks = units.iter().filter_map(|u| u["block"].as_u64()).max().map_or(0, |b| b + 1);
    for block in 0..blocks {
        let _ = write!(out, "<tr><th>{block}");
        for site in &sites {
            let own: Vec<&Value> = units.iter().filter(|u| u["block"] == block && text(&u["site"]) == *site).collect();
            let bits: Vec<u64> = own.iter().filter_map(|u| u["bits"].as_u64()).collect();
            let shown: Vec<String> = bits.iter().map(u64::to_string).collect();
            let _ = write!(out, "<td style=\"background:{}\">{}", colour(bits.iter().copied().max().unwrap_or(0)), shown.join(" "));
        }
    }
    out + "</table>"
}

/// Bars of the scores, on a logarithmic scale.
fn sensitivities(j: &Value) -> String {
    let Some(units) = j["units"].as_array() else { return String::new() };
    let scores: Vec<f64> = units.iter().map(|u| u["score"].as_f64().unwrap_or(0.0)).collect();
    let positive = || scores.iter().copied().filter(|s| *s > 0.0);
    let (Some(low), Some(high)) = (positive().reduce(f64::min), positive().reduce(f64::max)) else { return String::new() };
    let (low, high) = (low.log10() - 0.2, high.log10());
    let (row, left, width) = (14, 180, 620);
    let mut out = format!(
        "<h2>Sensitivity</h2><svg width={} height={} role=img aria-label=\"scores by unit\">",
        left + width + 90,
        row * units.len() + 4
    );
    for (i, (u, s)) in units.iter().zip(&scores).enumerate() {
        let y = row * i;
        let length = if *s > 0.0 { (width as f64 * (s.log10() - low) / (high - low).max(1e-9)).max(1.0) } else { 0.0 };
        let name = text(&u["unit"]);
        let short: String = name.chars().rev().take(28).collect::<Vec<_>>().into_iter().rev().collect();
        let _ = write!(
            out,
            "<text x={} y={} text-anchor=end>{}</text><rect x={left} y={} width={length:.1} height=11 fill=\"{}\"/><text x={:.1} y={}>{:.2e}</text>",
            left - 6,
            y + 11,
            escape(&short),
            y + 2,
            colour(u["bits"].as_u64().unwrap_or(0)),
            left as f64 + length + 5.0,
            y + 11,
            s,
        );
    }
    out + "</svg><p class=note>Logarithmic; the colour is that of the bits it got.</p>"
}

fn table(j: &Value) -> String {
    let Some(units) = j["units"].as_array() else { return String::new() };
    let mut out = String::from("<h2>Units</h2><table><tr><th>unit<th>weights<th>score<th>bits<th>expected loss");
    for u in units {
        let _ = write!(
            out,
            "<tr><td>{}<td>{}<td>{}<td>{}<td>{}",
            escape(&text(&u["unit"])),
            u["weights"],
            number(&u["score"]),
            u["bits"],
            number(&u["loss"])
        );
    }
    out + "</table>"
}
