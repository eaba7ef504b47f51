//! The live table.

use super::rows::{ClientView, Row};
use ratatui::{
    Frame,
    layout::{Constraint, Layout},
    style::{Color, Style, Stylize as _},
    text::Line,
    widgets::{Block, Cell, Paragraph, Row as Line_, Table},
};

/// The peer behind a backend: who answers, and until when its certificate holds.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct Peer {
    pub workload: String,
    pub address: String,
    /// `None`: plain text.
    pub identity: Option<String>,
    pub certificate_expires_in_s: Option<i64>,
}

/// Everything on the screen.
#[derive(Default)]
pub struct Screen {
    pub rows: Vec<Row>,
    pub clients: Vec<ClientView>,
    pub peers: Vec<Peer>,
    pub retry_on: bool,
    pub messages: Vec<String>,
    pub folder: String,
}

fn percent(v: Option<f64>) -> Cell<'static> {
    match v {
        None => Cell::from("-"),
        Some(v) => {
            let color = if v >= 0.999 {
                Color::Green
            } else if v >= 0.95 {
                Color::Yellow
            } else {
                Color::Red
            };
            Cell::from(format!("{:5.1} %", v * 100.0)).style(Style::new().fg(color))
        }
    }
}

fn ms(v: Option<f64>) -> String {
    v.map_or("-".into(), |v| if v < 10.0 { format!("{v:.1}") } else { format!("{v:.0}") })
}

fn rate(v: f64) -> String {
    if v == 0.0 { "-".into() } else { format!("{v:.1}") }
}

impl Screen {
    pub fn draw(&self, f: &mut Frame<'_>) {
        let [table, clients, peers, log] = Layout::vertical([
            Constraint::Min(self.rows.len() as u16 + 3),
            Constraint::Length(self.clients.len() as u16 + 3),
            Constraint::Length(self.peers.len().min(12) as u16 + 3),
            Constraint::Length(7),
        ])
        .areas(f.area());

        let head = [
            "route",
            "rule",
            "backend",
            "req/s",
            "client",
            "attempts",
            "retries/s",
            "timeouts/s",
            "p50 ms",
            "p95 ms",
            "p99 ms",
        ];
        let rows = self.rows.iter().map(|r| {
            Line_::new(vec![
                Cell::from(r.route.clone()),
                Cell::from(r.rule.clone()),
                Cell::from(r.backend.clone()),
                Cell::from(rate(r.requests_per_second)),
                percent(r.success),
                percent(r.attempt_success),
                Cell::from(rate(r.retries_per_second)),
                Cell::from(rate(r.timeouts_per_second)),
                Cell::from(ms(r.p50_ms)),
                Cell::from(ms(r.p95_ms)),
                Cell::from(ms(r.p99_ms)),
            ])
        });
        let widths = [24, 8, 26, 7, 8, 9, 9, 10, 7, 7, 7].map(Constraint::Length);
        let table_widget = Table::new(rows, widths)
            .header(Line_::new(head).bold())
            .block(Block::bordered().title(" what the sidecar of web does, last second "));
        f.render_widget(table_widget, table);

        let rows = self.clients.iter().map(|c| {
            Line_::new(vec![
                Cell::from(c.service.clone()),
                Cell::from(c.sent.to_string()),
                percent(c.success),
                Cell::from(ms(c.p50_ms)),
                Cell::from(ms(c.p99_ms)),
                Cell::from(c.last_error.clone().unwrap_or_default()),
            ])
        });
        let widths = [16, 9, 8, 7, 7, 80].map(Constraint::Length);
        let widget = Table::new(rows, widths)
            .header(Line_::new(["service", "requests", "success", "p50 ms", "p99 ms", "last error"]).bold())
            .block(Block::bordered().title(" what the client saw, since the start "));
        f.render_widget(widget, clients);

        let rows = self.peers.iter().map(|p| {
            let lock = if p.identity.is_some() { Cell::from("mTLS").green() } else { Cell::from("plain").red() };
            let expiry = p.certificate_expires_in_s.map_or("-".into(), |s| format!("{}h{:02}m", s / 3600, s / 60 % 60));
            Line_::new(vec![
                Cell::from(p.workload.clone()),
                Cell::from(p.address.clone()),
                lock,
                Cell::from(p.identity.clone().unwrap_or_default()),
                Cell::from(expiry),
            ])
        });
        let widths = [22, 18, 6, 52, 12].map(Constraint::Length);
        let widget = Table::new(rows, widths)
            .header(Line_::new(["endpoint", "address", "", "verified identity", "certificate"]).bold())
            .block(Block::bordered().title(" endpoints "));
        f.render_widget(widget, peers);

        let mut lines: Vec<Line<'_>> = vec![Line::from(format!(
            "r retries {} · s swap the split of catalog · q quit · or edit {}",
            if self.retry_on { "off" } else { "on" },
            self.folder
        ))];
        lines.extend(self.messages.iter().rev().take(4).map(|m| Line::from(m.as_str())));
        f.render_widget(Paragraph::new(lines).block(Block::bordered()), log);
    }
}
