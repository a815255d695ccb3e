//! The table and the JSON file.

use serde_json::{Value, json};

/// One row: what was measured against its limit.
pub struct Row {
    pub name: String,
    pub limit: String,
    pub measured: String,
    /// Measured over limit, or what the target speaks about.
    pub ratio: f64,
    pub target: String,
    pub met: bool,
    pub details: Value,
}

impl Row {
    /// A rate of which at least `share` of the limit is wanted.
    pub fn rate(name: &str, unit: &str, limit: f64, measured: f64, share: f64) -> Row {
        let ratio = measured / limit;
        Row {
            name: name.into(),
            limit: format!("{limit:.0} {unit}"),
            measured: format!("{measured:.0} {unit}"),
            ratio,
            target: format!(">= {share:.2}"),
            met: ratio >= share,
            details: json!({"unit": unit, "limit": limit, "measured": measured}),
        }
    }

    /// A delay that should not exceed `most` times the one before; none was seen if the window was too short, and
    /// then the target is not met.
    pub fn delay(name: &str, unit: &str, before: f64, measured: f64, most: f64) -> Row {
        let mut row = Self::cost(name, unit, before, measured, most);
        if measured <= 0.0 {
            row.met = false;
            row.measured = "no sample".into();
        }
        row
    }

    /// A time or amount that should not exceed `most` times the limit.
    pub fn cost(name: &str, unit: &str, limit: f64, measured: f64, most: f64) -> Row {
        let ratio = measured / limit;
        Row {
            name: name.into(),
            limit: format!("{limit:.0} {unit}"),
            measured: format!("{measured:.0} {unit}"),
            ratio,
            target: format!("<= {most:.2}"),
            met: ratio <= most,
            details: json!({"unit": unit, "limit": limit, "measured": measured}),
        }
    }

    /// Adds to the JSON.
    pub fn with(mut self, key: &str, value: Value) -> Row {
        self.details[key] = value;
        self
    }
}

/// Prints the table.
pub fn print(rows: &[Row]) {
    println!(
        "{:<44} {:>16} {:>16} {:>7}  {:<9} ",
        "", "limit", "volume", "ratio", "target"
    );
    for row in rows {
        println!(
            "{:<44} {:>16} {:>16} {:>7.2}  {:<9} {}",
            row.name,
            row.limit,
            row.measured,
            row.ratio,
            row.target,
            if row.met { "met" } else { "missed" }
        );
        if let Some(cpu) = row.details["cpuUs"].as_f64() {
            println!("{:>61} {cpu:.0} us of CPU each in engine and stores", "");
        }
    }
}

/// The machine and all rows.
pub fn json(rows: &[Row], setup: Value) -> Value {
    let rows = rows.iter().map(|row| {
        json!({
            "name": row.name,
            "ratio": row.ratio,
            "target": row.target,
            "met": row.met,
            "details": row.details,
        })
    });
    json!({"setup": setup, "rows": rows.collect::<Vec<_>>()})
}
