//! Where does it stand? The text of a file with its positions, so that every error names line and column.

use core::ops::Range;

use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, DeValue, Deserializer};

use crate::error::{Error, Item, Refusal, Result};

type Node<'a> = Spanned<DeValue<'a>>;

/// A parsed file. The tree keeps the position of every key and value; the typed rows need not carry any.
pub(super) struct Source<'a> {
    name: &'a str,
    text: &'a str,
    tree: Spanned<DeTable<'a>>,
}

impl<'a> Source<'a> {
    /// Parses the text as TOML. `name` is what errors call the file.
    pub(super) fn parse(name: &'a str, text: &'a str) -> Result<Self> {
        let tree = DeTable::parse(text).map_err(|e| {
            // A parser that names no place has run into the end.
            let offset = e.span().map_or(text.len(), |span| span.start);
            Error::input(e.message()).at(place(name, text, offset))
        })?;
        Ok(Self { name, text, tree })
    }

    /// The whole file as `T`.
    pub(super) fn read<T: DeserializeOwned>(&self) -> Result<T> {
        T::deserialize(Deserializer::from(self.tree.clone())).map_err(|e| {
            let offset = e.span().map_or(0, |span| span.start);
            let message = match self.context(offset) {
                Some(context) => format!("{context}: {}", e.message()),
                None => e.message().to_owned(),
            };
            self.error_at(offset, message)
        })
    }

    /// An error about the place `offset` bytes into the text.
    pub(super) fn error_at(&self, offset: usize, message: impl Into<String>) -> Error {
        Error::input(message).at(place(self.name, self.text, offset))
    }

    /// The refusal with its place, and the line of the second party.
    pub(super) fn error(&self, refusal: Refusal) -> Error {
        let Refusal { item, field, element, other, .. } = &refusal;
        let twice = other.as_deref() == Some(item);
        let row = self.row(item, usize::from(twice));
        let field = row.and_then(|row| row.get_ref().get(*field));
        let element = element.and_then(|index| field?.get_ref().get(index));
        let start = |node: Option<&Node<'_>>| node.map(|node| node.span().start);
        // A field that was left out is missed at the head of its row.
        let offset = start(element).or(start(field)).or(start(row)).unwrap_or(0);
        let other = other.as_deref().and_then(|other| {
            let (line, _) = line_and_column(self.text, self.row(other, 0)?.span().start);
            Some(if twice {
                format!(" (first defined at line {line})")
            } else {
                format!(" ({other} is at line {line})")
            })
        });
        let message = Error::from(refusal.clone()).message().to_owned();
        self.error_at(offset, message + &other.unwrap_or_default())
    }

    /// The row of an item; the `nth` one with its id.
    fn row(&self, item: &Item, nth: usize) -> Option<&Node<'a>> {
        let table = |kind: &str| self.tree.get_ref().get(kind);
        let rows = |kind| table(kind).and_then(|table| table.get_ref().as_array());
        match item {
            Item::Named(kind, id) => rows(kind)?.iter().filter(|row| name_of(row) == Some(id)).nth(nth),
            Item::Nth(kind, index) => rows(kind)?.get(*index),
            Item::Only(kind) => table(kind),
        }
    }

    /// What stands at `offset`: the row by its id, and the key if it is a value.
    fn context(&self, offset: usize) -> Option<String> {
        let inside = |span: Range<usize>| span.contains(&offset);
        self.tree.get_ref().iter().find_map(|(kind, table)| {
            let rows = table.get_ref().as_array().map_or(core::slice::from_ref(table), |rows| rows.as_ref());
            rows.iter().find_map(|row| {
                let entries = row.get_ref().as_table()?;
                let value = entries.iter().find(|(_, value)| inside(value.span()));
                // A missing key is reported at the head of the row, an unknown one at the key.
                if value.is_none() && !inside(row.span()) && !entries.keys().any(|key| inside(key.span())) {
                    return None;
                }
                let kind = kind.get_ref().replace('_', " ");
                let id = name_of(row).map(|id| format!(" {id:?}")).unwrap_or_default();
                let key = value.map(|(key, _)| format!(", {}", key.get_ref())).unwrap_or_default();
                Some(format!("{kind}{id}{key}"))
            })
        })
    }
}

fn name_of<'a>(row: &'a Node<'_>) -> Option<&'a str> {
    row.get_ref().get("id")?.get_ref().as_str()
}

/// `name:line:column` of a byte offset.
fn place(name: &str, text: &str, offset: usize) -> String {
    let (line, column) = line_and_column(text, offset);
    format!("{name}:{line}:{column}")
}

/// Counted from 1; columns in characters, as editors do.
fn line_and_column(text: &str, offset: usize) -> (usize, usize) {
    let before = text.char_indices().take_while(|&(at, _)| at < offset);
    before.fold((1, 1), |(line, column), (_, c)| if c == '\n' { (line + 1, 1) } else { (line, column + 1) })
}
