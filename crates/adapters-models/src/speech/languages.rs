//! Languages by the names that transformers has for them.

/// Names and codes, as `TO_LANGUAGE_CODE` of transformers' `tokenization_whisper.py` has them.
const NAMES: &str = "\
    english=en, chinese=zh, german=de, spanish=es, russian=ru, korean=ko, french=fr, japanese=ja, portuguese=pt, \
    turkish=tr, polish=pl, catalan=ca, dutch=nl, arabic=ar, swedish=sv, italian=it, indonesian=id, hindi=hi, finnish=fi, \
    vietnamese=vi, hebrew=he, ukrainian=uk, greek=el, malay=ms, czech=cs, romanian=ro, danish=da, hungarian=hu, tamil=ta, \
    norwegian=no, thai=th, urdu=ur, croatian=hr, bulgarian=bg, lithuanian=lt, latin=la, maori=mi, malayalam=ml, welsh=cy, \
    slovak=sk, telugu=te, persian=fa, latvian=lv, bengali=bn, serbian=sr, azerbaijani=az, slovenian=sl, kannada=kn, \
    estonian=et, macedonian=mk, breton=br, basque=eu, icelandic=is, armenian=hy, nepali=ne, mongolian=mn, bosnian=bs, \
    kazakh=kk, albanian=sq, swahili=sw, galician=gl, marathi=mr, punjabi=pa, sinhala=si, khmer=km, shona=sn, yoruba=yo, \
    somali=so, afrikaans=af, occitan=oc, georgian=ka, belarusian=be, tajik=tg, sindhi=sd, gujarati=gu, amharic=am, \
    yiddish=yi, lao=lo, uzbek=uz, faroese=fo, haitian creole=ht, pashto=ps, turkmen=tk, nynorsk=nn, maltese=mt, \
    sanskrit=sa, luxembourgish=lb, myanmar=my, tibetan=bo, tagalog=tl, malagasy=mg, assamese=as, tatar=tt, hawaiian=haw, \
    lingala=ln, hausa=ha, bashkir=ba, javanese=jw, sundanese=su, cantonese=yue, burmese=my, valencian=ca, flemish=nl, \
    haitian=ht, letzeburgesch=lb, pushto=ps, panjabi=pa, moldavian=ro, moldovan=ro, sinhalese=si, castilian=es, \
    mandarin=zh";

/// The code of a language: of its name, of a token such as `<|en|>`, or itself.
pub(super) fn code(language: &str) -> String {
    let language = language.trim_start_matches("<|").trim_end_matches("|>").to_lowercase();
    let mut names = NAMES.split(", ").filter_map(|pair| pair.split_once('='));
    names
        .find(|(name, _)| *name == language)
        .map_or(language.clone(), |(_, code)| code.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tokens_and_codes_are_the_same_language() {
        for language in ["Hindi", "hindi", "hi", "<|hi|>"] {
            assert_eq!(code(language), "hi");
        }
        assert_eq!(code("haitian creole"), "ht");
        assert_eq!((code("moldovan").as_str(), code("nowhere").as_str()), ("ro", "nowhere"));
        assert!(NAMES.split(", ").all(|pair| pair.contains('=')));
        assert_eq!(NAMES.split(", ").count(), 112);
    }
}
