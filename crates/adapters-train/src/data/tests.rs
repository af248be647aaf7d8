//! Good files, and every way in which a file can be wrong.

use std::fs;

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

impl Case {
    fn read(&self, labels: &Labels) -> Result<Dataset, DataError> {
        Dataset::read(&self.path, &Fields::default(), labels)
    }

    /// The message of the error, with the folder left out.
    fn message(&self, labels: &Labels) -> String {
        let folder = format!("{}/", self.path.parent().unwrap().display());
        self.read(labels).unwrap_err().to_string().replace(&folder, "")
    }

    fn labels(&self, labels: &Labels) -> Vec<Option<usize>> {
        self.read(labels)
            .unwrap()
            .examples
            .iter()
            .map(|example| example.label.as_ref().and_then(Label::class))
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
    assert_eq!(data.path, case.path);
    assert_eq!(data.len(), 2);
    assert!(!data.is_empty());
    assert_eq!(
        data.examples[0],
        Example {
            text: "so\ngood".into(),
            text_pair: None,
            label: Some(Label::Class(1))
        }
    );
    assert_eq!(
        data.examples[1],
        Example {
            text: String::new(),
            text_pair: None,
            label: Some(Label::Class(0))
        }
    );
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
    assert_eq!(
        csv.examples[0],
        Example {
            text: "a, \"b\"\nc".into(),
            text_pair: None,
            label: Some(Label::Class(1))
        }
    );
    assert_eq!(csv.examples[1].text, "d");
    let tsv = file("a.tsv", "text\tlabel\r\n\"no\" is no, \t1.0\r\n\"one quote\t0\r\n")
        .read(&TWO)
        .unwrap();
    assert_eq!(
        tsv.examples[0],
        Example {
            text: "\"no\" is no, ".into(),
            text_pair: None,
            label: Some(Label::Class(1))
        }
    );
    assert_eq!(tsv.examples[1].text, "\"one quote");
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
    let data = Dataset::read(&case.path, &fields, &TWO).unwrap();
    let expected = Example {
        text: "it rains".into(),
        text_pair: Some("it is wet".into()),
        label: Some(Label::Class(1)),
    };
    assert_eq!(data.examples, [expected]);
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
    let read = |case: &Case| Dataset::read_texts(&case.path, &Fields::default(), &TWO);
    let json = "{\"text\":\"a\"}\n{\"text\":\"b\",\"label\":null}\n{\"text\":\"c\",\"label\":-1}\n{\"text\":\"d\",\"label\":1}";
    let labels: Vec<_> = read(&file("a.jsonl", json))
        .unwrap()
        .examples
        .iter()
        .map(|example| example.label.as_ref().and_then(Label::class))
        .collect();
    assert_eq!(labels, [None, None, None, Some(1)]);
    assert_eq!(read(&file("a.csv", "text\na\n")).unwrap().examples[0].label, None);
    assert_eq!(
        read(&file("a.csv", "text,label\na,\n")).unwrap().examples[0].label,
        None
    );
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
    let missing = Dataset::read("absent.jsonl", &Fields::default(), &TWO).unwrap_err();
    assert_eq!(missing.to_string(), "cannot read absent.jsonl: there is no such file");
    assert!(std::error::Error::source(&missing).is_some());
    let supported = "by its extension; supported: .jsonl, .json-lines, .csv, .tsv";
    assert_eq!(
        message("a.txt", "", &TWO),
        format!("cannot tell the format of a.txt {supported}")
    );
    assert_eq!(
        message("noext", "", &TWO),
        format!("cannot tell the format of noext {supported}")
    );
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
        "a.csv:3 is not utf-8; convert the file first"
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
        "field `label` at a.jsonl:1 must be a class's name, found `true`"
    );
    assert!(message("a.csv", "text,label\na,\n", &TWO).ends_with("found an empty cell"));
    assert!(message("a.csv", "text,label\na,pos\n", &TWO).ends_with("found `pos`"));
}

#[test]
fn numbers_and_several_labels() {
    let read = |kind, name: &str, content: &str| {
        let file = file(name, content);
        let read = Dataset::read_as(kind, &file.path, &Fields::default(), &names());
        read.map(|data| data.examples.into_iter().map(|e| e.label).collect::<Vec<_>>())
            .map_err(|e| e.to_string())
    };
    let number = |text: &str| {
        read(
            LabelKind::Number,
            "a.jsonl",
            &format!("{{\"text\":\"\",\"label\":{text}}}"),
        )
    };
    assert_eq!(number("-2.5").unwrap(), [Some(Label::Number(-2.5))]);
    assert!(number("\"two\"").unwrap_err().contains("a finite number"));
    assert_eq!(
        read(LabelKind::Number, "a.tsv", "text\tlabel\na\t1e1\n").unwrap(),
        [Some(Label::Number(10.0))]
    );
    let Labels::Names(known) = names() else { panic!("names") };
    let (first, second) = (&known[0], &known[1]);
    let several = |text: &str| {
        read(
            LabelKind::Several,
            "a.jsonl",
            &format!("{{\"text\":\"\",\"label\":{text}}}"),
        )
    };
    assert_eq!(several("[]").unwrap(), [Some(Label::Several(vec![]))]);
    assert_eq!(
        several(&format!("[\"{second}\", 0]")).unwrap(),
        [Some(Label::Several(vec![1, 0]))]
    );
    assert!(several("1").unwrap_err().contains("a list of labels"));
    assert!(several("[\"none such\"]").unwrap_err().contains("none such"));
    assert_eq!(
        read(
            LabelKind::Several,
            "a.csv",
            &format!("text,label\na,{first}|{second}\nb,\n")
        )
        .unwrap(),
        [Some(Label::Several(vec![0, 1])), Some(Label::Several(vec![]))]
    );
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
        "{\"text\":\"text\",\"label\":\"label\",\"prompt\":\"prompt\",\"completion\":\"completion\"}"
    );
    assert!(serde_json::from_str::<Fields>("{\"txt\": \"sentence\"}").is_err());
    assert_eq!(serde_json::from_str::<Labels>("3").unwrap(), Labels::Count(3));
    assert_eq!(
        serde_json::from_str::<Labels>("[\"negative\", \"positive\"]").unwrap(),
        names()
    );
}
