//! Good files, and every way in which a file can be wrong.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::*;

/// A folder with one file in it, as each test needs it.
struct Case {
    _folder: TempDir,
    path: PathBuf,
}

fn file(name: &str, content: impl AsRef<[u8]>) -> Case {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    fs::write(&path, content).unwrap();
    Case { _folder: folder, path }
}

fn names() -> Labels {
    Labels::Names(vec!["negative".into(), "positive".into()])
}

/// The text, second text and class of every record.
type Read = Vec<(String, Option<String>, Option<usize>)>;

fn read(path: &Path, fields: &Fields, labels: &Labels, needed: bool) -> Result<Read, DataError> {
    let records = Records::read(path, fields)?.records;
    let read = records.iter().map(|record| {
        let pair = fields.text_pair.as_ref().map(|field| record.text(field)).transpose()?;
        Ok((
            record.text(&fields.text)?.to_owned(),
            pair.map(str::to_owned),
            record.class(&fields.label, labels, needed)?,
        ))
    });
    read.collect()
}

impl Case {
    fn read(&self, labels: &Labels) -> Result<Read, DataError> {
        read(&self.path, &Fields::default(), labels, true)
    }

    /// The message of the error, with the folder left out.
    fn message(&self, labels: &Labels) -> String {
        let folder = format!("{}/", self.path.parent().unwrap().display());
        self.read(labels).unwrap_err().to_string().replace(&folder, "")
    }

    fn labels(&self, labels: &Labels) -> Vec<Option<usize>> {
        self.read(labels)
            .unwrap()
            .into_iter()
            .map(|(_, _, class)| class)
            .collect()
    }
}

fn message(name: &str, content: impl AsRef<[u8]>, labels: &Labels) -> String {
    file(name, content).message(labels)
}

const TWO: Labels = Labels::Count(2);

#[test]
fn json_lines_are_read() {
    let case = file(
        "a.jsonl",
        "{\"text\": \"so\\ngood\", \"label\": 1, \"id\": 9}\r\n\n{\"label\":0.0,\"text\":\"\"}",
    );
    let data = case.read(&TWO).unwrap();
    assert_eq!(Records::read(&case.path, &Fields::default()).unwrap().path, case.path);
    assert_eq!(data.len(), 2);
    assert_eq!(data[0], ("so\ngood".into(), None, Some(1)));
    assert_eq!(data[1], (String::new(), None, Some(0)));
    assert_eq!(
        file("b.JSON-lines", "\u{feff}{\"text\":\"x\",\"label\":1}\n").labels(&TWO),
        [Some(1)]
    );
}

#[test]
fn tables_are_read() {
    let csv = file("a.csv", "\u{feff}id, text ,label\n1,\"a, \"\"b\"\"\nc\",1\n\n2,d,0\n")
        .read(&TWO)
        .unwrap();
    assert_eq!(csv[0], ("a, \"b\"\nc".into(), None, Some(1)));
    assert_eq!(csv[1].0, "d");
    let tsv = file("a.tsv", "text\tlabel\r\n\"no\" is no, \t1.0\r\n\"one quote\t0\r\n")
        .read(&TWO)
        .unwrap();
    assert_eq!(tsv[0], ("\"no\" is no, ".into(), None, Some(1)));
    assert_eq!(tsv[1].0, "\"one quote");
}

#[test]
fn lists_compressed_files_and_tables_of_spreadsheets_are_read() {
    let list = "\u{feff} [\n {\"text\": \"a\",\n  \"label\": \"1\"},\n{\"text\": \"b\", \"label\": false} ]\n";
    let data = file("a.json", list);
    assert_eq!(data.labels(&TWO), [Some(1), Some(0)]);
    let records = Records::read(&data.path, &Fields::default()).unwrap().records;
    assert!(records[1].location().ends_with("a.json:4"), "{}", records[1].location());
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut packed, list.as_bytes()).unwrap();
    assert_eq!(
        file("a.json.gz", packed.finish().unwrap()).labels(&TWO),
        [Some(1), Some(0)]
    );
    assert_eq!(file("a.json", "{\"text\":\"a\",\"label\":1}\n").labels(&TWO), [Some(1)]);
    for table in [
        "text;label\n\"a;b\";1\n",
        "text\tlabel\na\t1\n",
        "\"te,xt\";text;label\na;b;1\n",
    ] {
        assert_eq!(file("a.csv", table).labels(&TWO), [Some(1)], "{table}");
    }
    for (broken, position) in [
        ("[{\"text\": \"a\", \"label\": 1}", "a.json:1:27: expected `,` or `]`"),
        ("[{}, 3]", "expected an object at a.json:1, found `3`"),
        ("[\n{\"text\": oh}]", "invalid json at a.json:2:10"),
        ("[{}] x", "a.json:1:6: there is more"),
        ("[", "a.json:1:2: the list has no end"),
    ] {
        let message = message("a.json", broken, &TWO);
        assert!(message.contains(position), "{message}");
    }
}

#[test]
fn a_spreadsheet_may_name_its_delimiter_in_front_of_the_table() {
    for table in [
        "sep=;\r\ntext;label\r\na, b;1\r\n",
        "\"sep=|\"\ntext|label\na, b|1\n",
        "sep=\t\ntext\tlabel\na, b\t1\n",
    ] {
        let records = Records::read(&file("a.csv", table).path, &Fields::default())
            .unwrap()
            .records;
        assert_eq!(
            (records.len(), records[0].text("text").unwrap()),
            (1, "a, b"),
            "{table}"
        );
        assert!(records[0].location().ends_with("a.csv:3"), "{}", records[0].location());
    }
    let twice = message("a.csv", "sep=;\ntext;text\na;1\n", &TWO);
    assert_eq!(twice, "invalid row at a.csv:2: the column `text` is there twice");
}

#[test]
#[cfg(unix)]
fn a_file_without_an_end_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["a.jsonl", "a.csv", "a.json.gz", "a.parquet"] {
        let path = folder.path().join(name);
        std::os::unix::fs::symlink("/dev/zero", &path).unwrap();
        let refused = Records::read(&path, &Fields::default()).unwrap_err();
        let cause = std::error::Error::source(&refused).map(ToString::to_string);
        let expected = (cfg!(feature = "parquet") || name != "a.parquet").then_some("it is not a regular file");
        assert_eq!(cause.as_deref(), expected, "{name}: {refused}");
    }
}

#[test]
fn fields_and_columns_that_are_there_twice_are_refused() {
    let field = message("a.jsonl", "{\"text\":\"a\",\"label\":1,\"label\":0}", &TWO);
    assert!(
        field.contains("a.jsonl:1") && field.contains("duplicate key `label`"),
        "{field}"
    );
    let column = message("a.csv", "text, text,label\na,b,1\n", &TWO);
    assert_eq!(column, "invalid row at a.csv:1: the column `text` is there twice");
}

#[test]
fn labels_are_those_of_the_data_and_a_share_is_taken_out() {
    let labels = |name: &str, content: &str, separator| {
        let file = file(name, content);
        let records = Records::read(&file.path, &Fields::default()).unwrap();
        records.labels("label", separator).unwrap()
    };
    let named = |names: &[&str]| Labels::Names(names.iter().map(|name| (*name).to_owned()).collect());
    let words = "{\"label\":\"b\"}\n{\"label\":null}\n{\"label\":\"a\"}\n{\"label\":\"b\"}";
    assert_eq!(labels("a.jsonl", words, None), named(&["a", "b"]));
    assert_eq!(
        labels("a.jsonl", "{\"label\":2}\n{\"label\":\"0\"}", None),
        Labels::Count(3)
    );
    assert_eq!(labels("a.jsonl", "{\"label\":true}", None), named(&["true"]));
    assert_eq!(
        labels("a.csv", "text,label\nx,b|a\ny,c\n", Some('|')),
        named(&["a", "b", "c"])
    );
    let lines = (0..20).map(|n| format!("{{\"text\":\"{n}\"}}\n")).collect::<String>();
    let file = file("a.jsonl", lines);
    let whole = Records::read(&file.path, &Fields::default()).unwrap();
    let split = |fraction, seed| {
        let mut left = whole.clone();
        let out = left.split_off(fraction, seed).unwrap();
        (left, out)
    };
    let (left, out) = split(0.2, 1);
    assert_eq!((left.records.len(), out.records.len()), (16, 4));
    assert!(out.records.iter().all(|record| !left.records.contains(record)));
    assert_eq!(split(0.2, 1), (left, out.clone()));
    assert_ne!(split(0.2, 2).1, out);
    assert_eq!(
        (split(0.001, 1).1.records.len(), split(0.999, 1).0.records.len()),
        (1, 1)
    );
    let mut one = Records {
        records: whole.records[..1].to_vec(),
        ..whole
    };
    assert!(one.split_off(0.5, 1).is_none());
}

#[test]
fn passages_are_read_in_every_published_layout() {
    let passage = |json: &str| first("a.jsonl", json, |record| record.passage(&Fields::default()));
    let completion = |prompt: &str, completion: &str| Passage::Completion {
        prompt: prompt.into(),
        completion: completion.into(),
    };
    assert_eq!(
        passage(r#"{"prompt":"p","completion":"c","text":"t"}"#).unwrap(),
        completion("p", "c")
    );
    assert_eq!(
        passage(r#"{"instruction":"i","input":"","output":"o"}"#).unwrap(),
        completion("i", "o")
    );
    assert_eq!(
        passage(r#"{"instruction":"i","input":"x","output":"o"}"#).unwrap(),
        completion("i\n\nx", "o")
    );
    assert_eq!(passage(r#"{"text":"t"}"#).unwrap(), Passage::Text("t".into()));
    let chat = Passage::Chat(vec![
        adapters_models::Message::new("user", "q"),
        adapters_models::Message::new("assistant", "a"),
    ]);
    let parts = r#"[{"type":"text","text":"q"}]"#;
    let messages =
        format!(r#"{{"messages":[{{"role":"user","content":{parts}}},{{"role":"assistant","content":"a"}}]}}"#);
    assert_eq!(passage(&messages).unwrap(), chat);
    let shared = r#"{"conversations":[{"from":"human","value":"q"},{"from":"gpt","value":"a"}]}"#;
    assert_eq!(passage(shared).unwrap(), chat);
    let apart = r#"{"prompt":[{"role":"user","content":"q"}],"completion":[{"role":"assistant","content":"a"}]}"#;
    assert_eq!(passage(apart).unwrap(), chat);
    let Passage::Chat(with_system) = passage(&shared.replace("{\"conv", "{\"system\":\"s\",\"conv")).unwrap() else {
        panic!("a chat");
    };
    assert_eq!((with_system.len(), with_system[0].role.as_str()), (3, "system"));
    for (json, part) in [
        (
            r#"{"prompt":[{"role":"assistant","content":"q"}],"completion":[]}"#,
            "without an assistant's, which would be learned too",
        ),
        (
            r#"{"prompt":[{"role":"user","content":"q"}],"completion":"a"}"#,
            "must be a list of messages, found the string `a`",
        ),
        (
            r#"{"messages":[{"role":"user","content":"q"}]}"#,
            "an assistant's message, found the roles `user`",
        ),
        (r#"{"messages":[{"author":"user"}]}"#, "found one with `author`"),
        (r#"{"messages":[{}]}"#, "found an empty one"),
        (
            r#"{"messages":[{"role":"assistant","content":null,"tool_calls":[]}]}"#,
            "whose content is a text",
        ),
        (
            r#"{"messages":[{"role":"assistant","tool_calls":"f"}]}"#,
            "`tool_calls` as a list of objects",
        ),
        (r#"{"question":"q"}"#, "no field `prompt`"),
    ] {
        let error = passage(json).unwrap_err();
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn calls_of_tools_reach_the_template_with_what_else_a_message_has() {
    let json = r#"{"messages":[{"role":"user","content":"q","name":null},
        {"role":"assistant","content":null,"tool_calls":[{"id":"1","function":{"name":"f","arguments":{"x":1}}}]},
        {"role":"tool","tool_call_id":"1","content":"r"},{"role":"assistant","content":"a"}]}"#;
    let json = json.replace('\n', "");
    let chat = first("a.jsonl", &json, |record| record.messages()).unwrap().unwrap();
    let calls = serde_json::json!([{"id": "1", "function": {"name": "f", "arguments": {"x": 1}}}]);
    assert!(chat[0].fields.is_empty());
    assert_eq!(chat[1].fields["tool_calls"], calls);
    assert!(chat[1].fields["content"].is_null() && chat[1].content.is_empty());
    assert_eq!(
        (chat[2].role.as_str(), &chat[2].fields["tool_call_id"]),
        ("tool", &"1".into())
    );
    assert!(
        first("a.jsonl", r#"{"text":"t"}"#, |record| record.messages())
            .unwrap()
            .is_none()
    );
}

#[test]
fn tools_of_a_chat_are_a_list_of_objects_or_its_text() {
    let tools = |json: &str| first("a.jsonl", json, |record| record.tools());
    let expected = vec![serde_json::json!({"name": "f"})];
    assert_eq!(tools(r#"{"tools":[{"name":"f"}]}"#).unwrap(), expected);
    assert_eq!(tools(r#"{"tools":"[{\"name\":\"f\"}]"}"#).unwrap(), expected);
    assert!(tools(r#"{"tools":null}"#).unwrap().is_empty());
    assert!(tools("{}").unwrap().is_empty());
    for wrong in [r#"{"tools":["f"]}"#, r#"{"tools":"f"}"#, r#"{"tools":3}"#] {
        let error = tools(wrong).unwrap_err();
        assert!(error.contains("a list of JSON objects"), "{error}");
    }
}

#[test]
fn pairs_and_other_names_are_read() {
    let fields = Fields {
        text: "premise".into(),
        text_pair: Some("hypothesis".into()),
        label: "y".into(),
        ..Fields::default()
    };
    let case = file("a.tsv", "y\tpremise\thypothesis\n1\tit rains\tit is wet\n");
    let data = read(&case.path, &fields, &TWO, true).unwrap();
    assert_eq!(data, [("it rains".into(), Some("it is wet".into()), Some(1))]);
}

#[test]
fn labels_by_name_and_by_number() {
    let json = "{\"text\":\"\",\"label\":\"positive\"}\n{\"text\":\"\",\"label\":0}\n";
    assert_eq!(file("a.jsonl", json).labels(&names()), [Some(1), Some(0)]);
    assert_eq!(
        file("a.csv", "text,label\na,positive\nb,0\nc, negative\n").labels(&names()),
        [Some(1), Some(0), Some(0)]
    );
    let digits = Labels::Names(vec!["5".into(), "0".into()]);
    assert_eq!(
        file("a.csv", "text,label\na,0\n").labels(&digits),
        [Some(1)],
        "a name before a number"
    );
    assert_eq!(
        (names().count(), names().name(1), names().name(2)),
        (2, "positive".into(), "2".into())
    );
    assert_eq!((TWO.count(), TWO.name(1)), (2, "1".into()));
}

#[test]
fn labels_may_be_absent_for_prediction() {
    let read = |case: &Case| read(&case.path, &Fields::default(), &TWO, false);
    let json = "{\"text\":\"a\"}\n{\"text\":\"b\",\"label\":null}\n{\"text\":\"c\",\"label\":-1}\n{\"text\":\"d\",\"label\":1}";
    let labels: Vec<_> = read(&file("a.jsonl", json))
        .unwrap()
        .into_iter()
        .map(|read| read.2)
        .collect();
    assert_eq!(labels, [None, None, None, Some(1)]);
    assert_eq!(read(&file("a.csv", "text\na\n")).unwrap()[0].2, None);
    assert_eq!(read(&file("a.csv", "text,label\na,\n")).unwrap()[0].2, None);
    assert!(matches!(
        read(&file("a.csv", "text,label\na,7\n")),
        Err(DataError::LabelOutOfRange { .. })
    ));
    assert!(matches!(
        read(&file("a.csv", "label\n1\n")),
        Err(DataError::MissingField { .. })
    ));
}

#[test]
fn the_file_itself() {
    let missing = Records::read("absent.jsonl", &Fields::default()).unwrap_err();
    assert_eq!(missing.to_string(), "cannot read absent.jsonl: there is no such file");
    assert!(std::error::Error::source(&missing).is_some());
    let supported = "by its extension; supported: .jsonl, .json-lines, .json, .csv, .tsv, each also with .gz, and \
                     .parquet";
    assert_eq!(
        message("a.txt", "", &TWO),
        format!("cannot tell the format of a.txt {supported}")
    );
    assert_eq!(
        message("noext", "", &TWO),
        format!("cannot tell the format of noext {supported}")
    );
    #[cfg(not(feature = "parquet"))]
    {
        let refused = message("a.parquet", "PAR1", &TWO);
        assert!(refused.contains("build it with the feature `parquet`"), "{refused}");
    }
    for (name, content) in [
        ("a.jsonl", ""),
        ("a.jsonl", "\n \n"),
        ("a.csv", ""),
        ("a.csv", "text,label\n"),
    ] {
        assert_eq!(
            message(name, content, &TWO),
            format!("{name} is empty: it holds no example")
        );
    }
    assert_eq!(
        message("a.csv", b"text,label\na,1\ncaf\xe9,1\n", &TWO),
        "a.csv:3 is not utf-8; convert the file to utf-8"
    );
}

#[test]
fn broken_lines() {
    let json = message("a.jsonl", "{\"text\":\"a\",\"label\":1}\n\n{\"text\": oh}\n", &TWO);
    assert_eq!(json, "invalid json at a.jsonl:3:10: expected value");
    let list = "expected an object at a.jsonl:1, found a list; a .jsonl file holds one object a line";
    assert_eq!(message("a.jsonl", "[1, 2]", &TWO), list);
    assert!(message("a.jsonl", "[\n {}\n]", &TWO).contains("a.jsonl:1, found the start of a list"));
    let row = message("a.csv", "text,label\n\"a\nb\",1\n\nc\n", &TWO);
    assert_eq!(row, "invalid row at a.csv:5: it has 1 cell, the header has 2");
    // The text would be all that follows.
    for open in ["label,text\n0,a\n1,\"b\n0,c\n", "label,text\n0,a\n1,\"b \"\"c\"\"\n"] {
        let row = message("a.csv", open, &TWO);
        assert!(
            row.starts_with("invalid row at a.csv:3: a cell of it begins with `\"`"),
            "{row}"
        );
    }
    assert!(message("a.csv", "text,\"label\na,1\n", &TWO).contains("a.csv:1: a cell of it begins"));
    assert_eq!(file("a.csv", "label,text\n1,5\" disk\n").labels(&TWO), [Some(1)]);
    let row = message("a.tsv", "text\tlabel\r\na\t1\t\t\r\n", &TWO);
    assert_eq!(row, "invalid row at a.tsv:2: it has 4 cells, the header has 2");
}

#[test]
fn missing_fields() {
    let json = message(
        "a.jsonl",
        "{\"text\":\"a\",\"label\":1}\n{\"txet\":\"a\",\"label\":1}\n",
        &TWO,
    );
    assert_eq!(
        json,
        "no field `text` at a.jsonl:2: it has `txet`, `label`; did you mean `txet`?"
    );
    assert_eq!(
        message("a.csv", "\nid,Label\n1,1\n", &TWO),
        "no field `text` at a.csv:2: it has `id`, `Label`"
    );
    assert!(message("a.csv", "text,Label\n1,1\n", &TWO).ends_with("; did you mean `Label`?"));
    assert!(message("a.jsonl", "{}", &TWO).ends_with("it has none"));
}

#[test]
fn wrong_types() {
    let text = message("a.jsonl", "{\"text\":3,\"label\":1}", &TWO);
    assert_eq!(text, "field `text` at a.jsonl:1 must be a string, found `3`");
    let label = |json: &str, labels: &Labels| message("a.jsonl", format!("{{\"text\":\"\",\"label\":{json}}}"), labels);
    let integer = "field `label` at a.jsonl:1 must be an integer (or give the classes' names), found";
    assert_eq!(label("\"pos\"", &TWO), format!("{integer} the string `pos`"));
    assert_eq!(label("0.5", &TWO), format!("{integer} `0.5`"));
    assert_eq!(label("null", &TWO), format!("{integer} `null`"));
    assert_eq!(
        label("true", &names()),
        "unknown label `true` at a.jsonl:1: this run's classes are `negative`, `positive`"
    );
    assert!(message("a.csv", "text,label\na,\n", &TWO).ends_with("found an empty cell"));
    assert!(message("a.csv", "text,label\na,pos\n", &TWO).ends_with("found `pos`"));
}

/// What `read` makes of the first record of a file.
fn first<T>(name: &str, content: &str, read: impl Fn(&Record) -> Result<T, DataError>) -> Result<T, String> {
    let file = file(name, content);
    let records = Records::read(&file.path, &Fields::default()).map_err(|e| e.to_string())?;
    read(&records.records[0]).map_err(|e| e.to_string())
}

#[test]
fn numbers_and_several_labels() {
    let number = |name: &str, content: &str| first(name, content, |record| record.number("label", true));
    assert_eq!(number("a.jsonl", "{\"label\":-2.5}").unwrap(), Some(-2.5));
    assert!(
        number("a.jsonl", "{\"label\":\"two\"}")
            .unwrap_err()
            .contains("a finite number")
    );
    assert_eq!(number("a.tsv", "text\tlabel\na\t1e1\n").unwrap(), Some(10.0));
    let several = |name: &str, content: &str| first(name, content, |record| record.classes("label", &names(), true));
    assert_eq!(several("a.jsonl", "{\"label\":[]}").unwrap(), Some(vec![]));
    assert_eq!(
        several("a.jsonl", "{\"label\":[\"positive\", 0]}").unwrap(),
        Some(vec![1, 0])
    );
    assert!(
        several("a.jsonl", "{\"label\":1}")
            .unwrap_err()
            .contains("a list of labels")
    );
    assert!(
        several("a.jsonl", "{\"label\":[\"none such\"]}")
            .unwrap_err()
            .contains("none such")
    );
    assert_eq!(
        several("a.csv", "text,label\na,negative|positive\n").unwrap(),
        Some(vec![0, 1])
    );
    assert_eq!(several("a.csv", "text,label\na,\n").unwrap(), Some(vec![]));
}

#[test]
fn words_with_their_tags_and_choices() {
    let words = |name: &str, content: &str| first(name, content, |record| record.texts("words", ' '));
    assert_eq!(words("a.jsonl", "{\"words\":[\"a\",\"b c\"]}").unwrap(), ["a", "b c"]);
    assert_eq!(words("a.csv", "words\na  b\n").unwrap(), ["a", "b"]);
    assert!(
        words("a.jsonl", "{\"words\":[1]}")
            .unwrap_err()
            .contains("a list of strings")
    );
    let tags = |content: &str| {
        first("a.jsonl", content, |record| {
            record.class_of_each("tags", &names(), 2, true)
        })
    };
    assert_eq!(tags("{\"tags\":[\"positive\", 0]}").unwrap(), Some(vec![1, 0]));
    let short = tags("{\"tags\":[0]}").unwrap_err();
    assert!(short.contains("as long as its words, 2, found 1 items"), "{short}");
    let choices = first("a.csv", "choices\nthis one|that one\n", |record| {
        record.texts("choices", '|')
    });
    assert_eq!(choices.unwrap(), ["this one", "that one"]);
    let start = |content: &str| first("a.jsonl", content, |record| record.optional_index("answer_start"));
    assert_eq!(start("{\"answer_start\":7}").unwrap(), Some(7));
    assert_eq!(start("{\"x\":7}").unwrap(), None);
    assert!(start("{\"answer_start\":-7}").unwrap_err().contains("a whole number"));
}

#[test]
fn labels_that_are_no_class() {
    let twelve = "{\"text\":\"\",\"label\":1}\n".repeat(11) + "{\"text\":\"\",\"label\":7}";
    let range = "is out of range: this run has 2 classes (0..=1)";
    assert_eq!(
        message("a.jsonl", twelve, &TWO),
        format!("label 7 at a.jsonl:12 {range}")
    );
    assert_eq!(
        message("a.csv", "text,label\n\n\na,-1\n", &names()),
        format!("label -1 at a.csv:4 {range}")
    );
    assert!(message("a.csv", "text,label\na,99999999999999999999\n", &TWO).contains("label 99999999999999999999 at"));
    assert_eq!(
        message("a.csv", "text,label\na,postive\n", &names()),
        "unknown label `postive` at a.csv:2: this run's classes are `negative`, `positive`; did you mean `positive`?"
    );
    assert!(message("a.jsonl", "{\"text\":\"\",\"label\":\"1\"}", &names()).starts_with("unknown label `1`"));
}

#[test]
fn fields_have_defaults_and_refuse_unknown_ones() {
    let fields: Fields = serde_json::from_str("{\"text\": \"sentence\"}").unwrap();
    assert_eq!(
        fields,
        Fields {
            text: "sentence".into(),
            ..Fields::default()
        }
    );
    assert_eq!(
        serde_json::to_string(&Fields::default()).unwrap(),
        "{\"text\":\"text\",\"image\":\"image\",\"audio\":\"audio\",\"label\":\"label\",\"words\":\"words\",\"tags\":\"tags\",\"question\":\"question\",\
         \"context\":\"context\",\"answer\":\"answer\",\"answer_start\":\"answer_start\",\"choices\":\"choices\",\
         \"prompt\":\"prompt\",\"completion\":\"completion\"}"
    );
    assert!(serde_json::from_str::<Fields>("{\"txt\": \"sentence\"}").is_err());
    assert_eq!(serde_json::from_str::<Labels>("3").unwrap(), Labels::Count(3));
    assert_eq!(
        serde_json::from_str::<Labels>("[\"negative\", \"positive\"]").unwrap(),
        names()
    );
}
