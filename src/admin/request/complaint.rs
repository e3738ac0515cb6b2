//! What is said of a body that is no JSON: APISIX's words, which are those of its parser.
//!
//! lua-cjson names what it expected and what it found, where: `Expected value but found T_END at
//! character 4`. Clients and APISIX's own cases compare that. Nothing of the body is in it.

/// How deep lua-cjson reads (its `decode_max_depth`).
const DEPTH_MAX: usize = 1000;

/// What lua-cjson says of a text; `None` where it finds nothing wrong with it, as its grammar is wider
/// than that of RFC 8259.
pub(super) fn complaint(text: &[u8]) -> Option<String> {
    let mut tokens = Tokens { text, at: 0 };
    let mut open: Vec<Open> = Vec::new();
    let mut expected = Expected::Value;
    loop {
        let (token, at) = tokens.take();
        expected = match (expected, token) {
            (Expected::Value | Expected::ValueOrEnd, Token::Scalar(_) | Token::String)
            | (Expected::ValueOrEnd, Token::ArrayEnd)
            | (Expected::KeyOrEnd, Token::ObjectEnd) => {
                if matches!(token, Token::ArrayEnd | Token::ObjectEnd) {
                    open.pop();
                }
                Expected::after(open.last())
            }
            (Expected::Value | Expected::ValueOrEnd, Token::ObjectBegin | Token::ArrayBegin) => {
                if open.len() == DEPTH_MAX {
                    return None;
                }
                let is_object = matches!(token, Token::ObjectBegin);
                open.push(if is_object { Open::Object } else { Open::Array });
                if is_object {
                    Expected::KeyOrEnd
                } else {
                    Expected::ValueOrEnd
                }
            }
            (Expected::Key | Expected::KeyOrEnd, Token::String) => Expected::Colon,
            (Expected::Colon, Token::Colon) => Expected::Value,
            (Expected::CommaInObject, Token::Comma) => Expected::Key,
            (Expected::CommaInArray, Token::Comma) => Expected::Value,
            (Expected::CommaInObject, Token::ObjectEnd)
            | (Expected::CommaInArray, Token::ArrayEnd) => {
                open.pop();
                Expected::after(open.last())
            }
            (Expected::End, Token::End) => return None,
            (expected, found) => {
                let (expected, found) = (expected.name(), found.name());
                return Some(format!(
                    "Expected {expected} but found {found} at character {}",
                    at + 1
                ));
            }
        };
    }
}

/// What is begun and not ended.
#[derive(Clone, Copy)]
enum Open {
    Object,
    Array,
}

/// What may come next.
#[derive(Clone, Copy)]
enum Expected {
    Value,
    ValueOrEnd,
    Key,
    KeyOrEnd,
    Colon,
    CommaInObject,
    CommaInArray,
    End,
}

impl Expected {
    /// What comes behind a value in this.
    const fn after(open: Option<&Open>) -> Self {
        match open {
            Some(Open::Object) => Self::CommaInObject,
            Some(Open::Array) => Self::CommaInArray,
            None => Self::End,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Value | Self::ValueOrEnd => "value",
            Self::Key | Self::KeyOrEnd => "object key string",
            Self::Colon => "colon",
            Self::CommaInObject => "comma or object end",
            Self::CommaInArray => "comma or array end",
            Self::End => "the end",
        }
    }
}

/// A piece of the text.
#[derive(Clone, Copy)]
enum Token {
    ObjectBegin,
    ObjectEnd,
    ArrayBegin,
    ArrayEnd,
    Colon,
    Comma,
    String,
    /// A number, a boolean or null, by its name.
    Scalar(&'static str),
    End,
    /// What is none.
    Error(&'static str),
}

impl Token {
    const fn name(self) -> &'static str {
        match self {
            Self::ObjectBegin => "T_OBJ_BEGIN",
            Self::ObjectEnd => "T_OBJ_END",
            Self::ArrayBegin => "T_ARR_BEGIN",
            Self::ArrayEnd => "T_ARR_END",
            Self::Colon => "T_COLON",
            Self::Comma => "T_COMMA",
            Self::String => "T_STRING",
            Self::Scalar(name) | Self::Error(name) => name,
            Self::End => "T_END",
        }
    }
}

/// The text, read up to `at`.
struct Tokens<'t> {
    text: &'t [u8],
    at: usize,
}

impl Tokens<'_> {
    /// The next token, and where it begins or where it is broken.
    fn take(&mut self) -> (Token, usize) {
        while self.is_next(|byte| b" \t\r\n".contains(&byte)) {
            self.at += 1;
        }
        let begin = self.at;
        // A NUL ends the text there, too.
        let Some(byte) = self.peek().filter(|byte| *byte != 0) else {
            return (Token::End, begin);
        };
        let token = match byte {
            b'{' => Token::ObjectBegin,
            b'}' => Token::ObjectEnd,
            b'[' => Token::ArrayBegin,
            b']' => Token::ArrayEnd,
            b':' => Token::Colon,
            b',' => Token::Comma,
            b'"' => return self.string(),
            b'-' | b'0'..=b'9' => return (self.number(), begin),
            _ => {
                let rest = self.text.get(begin..).unwrap_or_default();
                let words = [
                    ("true", "T_BOOLEAN"),
                    ("false", "T_BOOLEAN"),
                    ("null", "T_NULL"),
                ];
                let mut words = words.into_iter();
                let found = words.find(|(word, _)| rest.starts_with(word.as_bytes()));
                let Some((word, name)) = found else {
                    return (Token::Error("invalid token"), begin);
                };
                self.at += word.len();
                return (Token::Scalar(name), begin);
            }
        };
        self.at += 1;
        (token, begin)
    }

    fn string(&mut self) -> (Token, usize) {
        let begin = self.at;
        self.at += 1;
        loop {
            match self.peek() {
                None | Some(0) => return (Token::Error("unexpected end of string"), self.at),
                Some(b'"') => {
                    self.at += 1;
                    return (Token::String, begin);
                }
                Some(b'\\') => {
                    let escape = self.at;
                    self.at += 1;
                    match self.peek() {
                        Some(b'u') => {
                            let digits = self.text.get(self.at + 1..self.at + 5);
                            let is_hex = |digits: &[u8]| digits.iter().all(u8::is_ascii_hexdigit);
                            if !digits.is_some_and(is_hex) {
                                return (Token::Error("invalid unicode escape code"), escape);
                            }
                            self.at += 5;
                        }
                        Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => {
                            self.at += 1;
                        }
                        _ => return (Token::Error("invalid escape code"), escape),
                    }
                }
                Some(_) => self.at += 1,
            }
        }
    }

    /// What `strtod` takes, but for its other notations.
    fn number(&mut self) -> Token {
        if self.is_next(|byte| byte == b'-') {
            self.at += 1;
        }
        if self.digits() == 0 {
            return Token::Error("invalid number");
        }
        if self.is_next(|byte| byte == b'.') {
            self.at += 1;
            self.digits();
        }
        if self.is_next(|byte| matches!(byte, b'e' | b'E')) {
            let mantissa = self.at;
            self.at += 1;
            if self.is_next(|byte| matches!(byte, b'+' | b'-')) {
                self.at += 1;
            }
            if self.digits() == 0 {
                self.at = mantissa;
            }
        }
        Token::Scalar("T_NUMBER")
    }

    /// Reads digits, and says how many.
    fn digits(&mut self) -> usize {
        let begin = self.at;
        while self.is_next(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        self.at - begin
    }

    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn is_next(&self, is_it: impl Fn(u8) -> bool) -> bool {
        self.peek().is_some_and(is_it)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_no_json_is_told_as_lua_cjson_tells_it() {
        for (text, told) in [
            (
                "{abcd",
                "object key string but found invalid token at character 2",
            ),
            ("", "value but found T_END at character 1"),
            ("   ", "value but found T_END at character 4"),
            ("{", "object key string but found T_END at character 2"),
            ("[", "value but found T_END at character 2"),
            ("not json", "value but found invalid token at character 1"),
            ("{\"a\"}", "colon but found T_OBJ_END at character 5"),
            ("{\"a\":}", "value but found T_OBJ_END at character 6"),
            (
                "{\"a\":1,}",
                "object key string but found T_OBJ_END at character 8",
            ),
            (
                "{\"a\":1 \"b\"",
                "comma or object end but found T_STRING at character 8",
            ),
            (
                "{1:2}",
                "object key string but found T_NUMBER at character 2",
            ),
            (
                "[1 true",
                "comma or array end but found T_BOOLEAN at character 4",
            ),
            ("[1,]", "value but found T_ARR_END at character 4"),
            (
                "[1}",
                "comma or array end but found T_OBJ_END at character 3",
            ),
            ("{}x", "the end but found invalid token at character 3"),
            ("{} {", "the end but found T_OBJ_BEGIN at character 4"),
            ("null [", "the end but found T_ARR_BEGIN at character 6"),
            ("true null", "the end but found T_NULL at character 6"),
            ("1:", "the end but found T_COLON at character 2"),
            ("1,", "the end but found T_COMMA at character 2"),
            ("-", "value but found invalid number at character 1"),
            ("1e", "the end but found invalid token at character 2"),
            (
                "\"a",
                "value but found unexpected end of string at character 3",
            ),
            (
                "\"a\\q\"",
                "value but found invalid escape code at character 3",
            ),
            (
                "\"\\u12g4\"",
                "value but found invalid unicode escape code at character 2",
            ),
        ] {
            let told = format!("Expected {told}");
            assert_eq!(complaint(text.as_bytes()), Some(told), "{text}");
        }
        // What it takes, and RFC 8259 does not.
        for text in ["01", "\"\t\"", "\"\u{fe}\"", "{\"a\":1,\"a\":2}", "{}\0x"] {
            assert_eq!(complaint(text.as_bytes()), None, "{text}");
        }
        assert_eq!(complaint("[".repeat(100_000).as_bytes()), None);
    }

    proptest! {
        #[test]
        fn what_is_json_has_no_complaint_and_the_rest_ends(text in "[\\[\\]{}:,\"\\\\u0-9e.tn -]{0,12}") {
            let told = complaint(text.as_bytes());
            if serde_json::from_str::<serde_json::Value>(&text).is_ok() {
                prop_assert_eq!(told, None);
            }
        }
    }
}
