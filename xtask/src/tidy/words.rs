//! Words that name nothing, and what to write instead: the table that CONTRIBUTING.md shows.

use super::doc_table::DocTable;
use proc_macro2::{Span, TokenStream, TokenTree};
use std::fmt::Write;
use syn::{
    Ident,
    visit::{self, Visit},
};

/// What may not bear the word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scope {
    /// Names that the code defines: bindings, fields, functions, types.
    Name,
    /// All text of a file: code, comments, log and error texts. Case is ignored.
    Text,
    /// The beginning of a sentence, with a capital.
    Sentence,
}

/// Words with one replacement.
struct Ban {
    words: &'static [&'static str],
    scope: Scope,
    instead: &'static str,
}

const BANS: &[Ban] = &[
    Ban {
        words: &["one", "ones", "thing", "things", "it", "this", "that"],
        scope: Scope::Name,
        instead: "the noun: container, thread, CPU, slot, candidate",
    },
    Ban {
        words: &["other", "others"],
        scope: Scope::Name,
        instead: "what it is beside: peer, sibling, victim, second, unknown (a method's parameter of type \
                  Self, and one that a trait names, may be `other`)",
    },
    Ban {
        words: &["each", "those", "these", "they", "them"],
        scope: Scope::Name,
        instead: "the noun, in the plural for a collection: containers, threads, CPUs",
    },
    Ban {
        words: &["what"],
        scope: Scope::Name,
        instead: "what is named: operation, subject, reason, kind",
    },
    Ban {
        words: &["whose"],
        scope: Scope::Name,
        instead: "the owner: container, client, peer",
    },
    Ban {
        words: &[
            "who",
            "whom",
            "whoever",
            "whomever",
            "someone",
            "somebody",
            "anyone",
            "anybody",
            "everyone",
            "everybody",
            "nobody",
        ],
        scope: Scope::Text,
        instead: "the role of a person (operator, kubelet, client), or the noun (no container, every thread)",
    },
    Ban {
        words: &["Whose"],
        scope: Scope::Sentence,
        instead: "the noun first: \"the container whose …\"",
    },
];

/// Folders that are held to the table.
const HELD: &[&str] = &["common/", "ebpf/", "relay/", "xtask/"];

/// This file has all the words.
const TABLE: &str = "xtask/src/tidy/words.rs";

/// Where the table is shown.
pub(super) const DOC_TABLE: DocTable = DocTable {
    document: "CONTRIBUTING.md",
    name: "words",
    table,
};

/// The table as [`DOC_TABLE`] has it.
fn table() -> String {
    let mut table = String::from("\n| not | in | but |\n| --- | --- | --- |\n");
    for ban in BANS {
        let scope = match ban.scope {
            Scope::Name => "names",
            Scope::Text => "names, comments, texts",
            Scope::Sentence => "the beginning of a sentence",
        };
        let words: Vec<_> = ban.words.iter().map(|word| format!("`{word}`")).collect();
        let _never_fails = writeln!(
            table,
            "| {} | {scope} | {} |",
            words.join(", "),
            ban.instead
        );
    }
    table + "\n"
}

/// What is wrong with the words of one file, in the order of its lines.
///
/// # Errors
/// When it is no Rust code.
pub(super) fn findings(path: &str, text: &str) -> syn::Result<Vec<String>> {
    if !HELD.iter().any(|folder| path.starts_with(folder)) || path == TABLE {
        return Ok(Vec::new());
    }
    let mut names = Names::default();
    names.visit_file(&syn::parse_file(text)?);
    let mut found = names.found;
    for (line, number) in text.lines().zip(1..) {
        found.extend(banned_in(line).map(|(word, ban)| (number, word, ban)));
    }
    found.sort_by_key(|(line, ..)| *line);
    found.dedup_by_key(|(line, word, _ban)| (*line, *word));
    let message = |(line, word, ban): (usize, &str, &Ban)| {
        format!(
            "{path}:{line}: `{word}` names nothing; write {}",
            ban.instead
        )
    };
    Ok(found.into_iter().map(message).collect())
}

/// Words of a line that no text may have.
fn banned_in(line: &str) -> impl Iterator<Item = (&'static str, &'static Ban)> {
    let words = line.split(|c: char| !c.is_alphabetic() && c != '\'');
    words.filter_map(|word| {
        BANS.iter().find_map(|ban| {
            let same = |banned: &&&str| match ban.scope {
                Scope::Name => false,
                Scope::Text => banned.eq_ignore_ascii_case(word.trim_end_matches("'s")),
                Scope::Sentence => **banned == word,
            };
            ban.words.iter().find(same).map(|banned| (*banned, ban))
        })
    })
}

/// Names that a file defines, as far as they are banned.
#[derive(Default)]
struct Names {
    found: Vec<(usize, &'static str, &'static Ban)>,
    /// Inside of `impl Trait for`.
    of_trait: bool,
    /// Inside of a method that may call its parameter `other`.
    may_say_other: bool,
}

impl Names {
    /// Judges a name, whatever its case: `Other` and `OTHERS` say no more than `other`.
    fn name(&mut self, name: &str, span: Span) {
        if self.may_say_other && name == "other" {
            return;
        }
        let banned = BANS
            .iter()
            .filter(|ban| ban.scope == Scope::Name)
            .find_map(|ban| {
                let word = ban
                    .words
                    .iter()
                    .find(|word| word.eq_ignore_ascii_case(name))?;
                Some((span.start().line, *word, ban))
            });
        self.found.extend(banned);
    }

    fn ident(&mut self, ident: &Ident) {
        self.name(&ident.to_string(), ident.span());
    }

    /// A macro's arguments are code of any form: what follows `.` or `:` is defined elsewhere.
    fn tokens(&mut self, tokens: TokenStream) {
        let mut path = false;
        for token in tokens {
            match &token {
                TokenTree::Group(group) => self.tokens(group.stream()),
                TokenTree::Ident(ident) if !path => self.ident(ident),
                _ => {}
            }
            path =
                matches!(&token, TokenTree::Punct(punct) if matches!(punct.as_char(), '.' | ':'));
        }
    }

    fn method(&mut self, signature: &syn::Signature, visit: impl FnOnce(&mut Self)) {
        let outside = self.may_say_other;
        self.may_say_other = self.of_trait || signature.inputs.iter().any(is_self);
        visit(self);
        self.may_say_other = outside;
    }
}

/// Whether a parameter has the type `Self`, by value or by reference.
fn is_self(parameter: &syn::FnArg) -> bool {
    let syn::FnArg::Typed(parameter) = parameter else {
        return false;
    };
    let named = match &*parameter.ty {
        syn::Type::Reference(reference) => &*reference.elem,
        named => named,
    };
    matches!(named, syn::Type::Path(named) if named.path.is_ident("Self"))
}

impl<'ast> Visit<'ast> for Names {
    fn visit_pat_ident(&mut self, pattern: &'ast syn::PatIdent) {
        self.ident(&pattern.ident);
        visit::visit_pat_ident(self, pattern);
    }

    fn visit_field(&mut self, field: &'ast syn::Field) {
        if let Some(ident) = &field.ident {
            self.ident(ident);
        }
        visit::visit_field(self, field);
    }

    fn visit_signature(&mut self, signature: &'ast syn::Signature) {
        self.ident(&signature.ident);
        visit::visit_signature(self, signature);
    }

    fn visit_item(&mut self, item: &'ast syn::Item) {
        match item {
            syn::Item::Const(item) => self.ident(&item.ident),
            syn::Item::Enum(item) => self.ident(&item.ident),
            syn::Item::Mod(item) => self.ident(&item.ident),
            syn::Item::Static(item) => self.ident(&item.ident),
            syn::Item::Struct(item) => self.ident(&item.ident),
            syn::Item::Trait(item) => self.ident(&item.ident),
            syn::Item::Type(item) => self.ident(&item.ident),
            _ => {}
        }
        visit::visit_item(self, item);
    }

    fn visit_variant(&mut self, variant: &'ast syn::Variant) {
        self.ident(&variant.ident);
        visit::visit_variant(self, variant);
    }

    fn visit_item_impl(&mut self, item: &'ast syn::ItemImpl) {
        let outside = std::mem::replace(&mut self.of_trait, item.trait_.is_some());
        visit::visit_item_impl(self, item);
        self.of_trait = outside;
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.method(&item.sig, |names| visit::visit_impl_item_fn(names, item));
    }

    fn visit_trait_item_fn(&mut self, item: &'ast syn::TraitItemFn) {
        self.method(&item.sig, |names| visit::visit_trait_item_fn(names, item));
    }

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        self.tokens(call.tokens.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lines and words of what is found in a file.
    fn found(text: &str) -> Vec<String> {
        let findings = findings("common/src/lib.rs", text).unwrap();
        let short = findings.iter().map(|finding| {
            let after = finding.strip_prefix("common/src/lib.rs:").unwrap();
            after.split(" names").next().unwrap().to_owned()
        });
        short.collect()
    }

    #[test]
    fn a_finding_says_where_it_is_and_what_to_write() {
        assert_eq!(
            findings("common/src/lib.rs", "\nfn f(whose: u32) {}").unwrap(),
            [
                "common/src/lib.rs:2: `whose` names nothing; write the owner: container, client, peer"
            ]
        );
    }

    #[test]
    fn bindings_fields_functions_and_types_are_read() {
        let text = "struct Others { one: u8 }\nfn each(that: u8) {}\nenum Kind { Other }\nconst THIS: u8 = 0;";
        assert_eq!(
            found(text),
            [
                "1: `others`",
                "1: `one`",
                "2: `each`",
                "2: `that`",
                "3: `other`",
                "4: `this`"
            ]
        );
        let text = "fn f() {\nlet (one, _) = pair;\nlist.map(|it| it.id);\nfor other in list {}\n}";
        assert_eq!(found(text), ["2: `one`", "3: `it`", "4: `other`"]);
        assert_eq!(
            found("fn f() { assert!(list.all(|it| it.ok)); }"),
            ["1: `it`"]
        );
    }

    #[test]
    fn what_is_defined_elsewhere_and_longer_names_are_not() {
        assert!(found("fn f() { io::Error::other(text); list.each(); }").is_empty());
        assert!(found("fn f() { assert!(a.other, \"{}\", Error::other(text)); }").is_empty());
        assert!(found("fn for_each_one(no_other: u8) {} // one of this").is_empty());
    }

    #[test]
    fn a_second_self_and_what_a_trait_names_may_be_other() {
        assert!(
            found("impl Set { fn union(&self, other: &Self) { assert!(other.ok) } }").is_empty()
        );
        assert!(found("impl PartialEq<str> for Name { fn eq(&self, other: &str) {} }").is_empty());
        assert_eq!(
            found("impl Set { fn union(&self, other: u8) {} }"),
            ["1: `other`"]
        );
        assert_eq!(
            found("impl Ord for Name { fn cmp(&self, one: &Self) {} }"),
            ["1: `one`"]
        );
    }

    #[test]
    fn comments_and_texts_name_roles() {
        assert_eq!(
            found("// Nobody's CPUs.\nfn f() { warn!(\"whoever waits\") }"),
            ["1: `nobody`", "2: `whoever`"]
        );
        assert_eq!(found("fn nobody_waits() {}"), ["1: `nobody`"]);
        assert_eq!(found("/// Whose CPUs it has.\nfn f() {}"), ["1: `Whose`"]);
        assert!(found("/// A pool whose CPUs are whole.\nfn f() {}").is_empty());
    }

    #[test]
    fn folders_outside_the_product_are_not_read() {
        assert!(
            findings("tests/src/cri.rs", "fn f(one: u8) {}")
                .unwrap()
                .is_empty()
        );
    }
}
