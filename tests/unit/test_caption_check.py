"""A caption that is a refusal, a loop or in another language teaches the generator nonsense; a good one must not be lost."""

from __future__ import annotations

from typing import get_args

import pytest

from mugv.curation.captions.check import check, count_words, wrong_language
from mugv.recipe.curation import Captioning, Language

GOOD = {
    "en": "This video shows a young woman in a white dress who sits at a table in a cafe and drinks coffee. The camera is still.",
    "de": "Dieses Video zeigt eine junge Frau in einem weißen Kleid, die an einem Tisch in einem Café sitzt und Kaffee trinkt.",
    "fr": "Cette vidéo montre une jeune femme en robe blanche assise à une table dans un café, qui boit un café.",
    "es": "Este video muestra a una mujer joven con un vestido blanco sentada a una mesa en un café. La cámara está quieta.",
    "it": "Questo video mostra una giovane donna con un vestito bianco seduta a un tavolo in un caffè, che beve un caffè.",
    "pt": "Este vídeo mostra uma jovem mulher com um vestido branco sentada a uma mesa num café. A câmera está parada.",
    "nl": "Deze video toont een jonge vrouw in een witte jurk die aan een tafel in een café zit en koffie drinkt.",
    "id": "Video ini menampilkan seorang wanita muda dengan gaun putih yang duduk di meja di sebuah kafe dan minum kopi.",
    "vi": "Video này cho thấy một người phụ nữ trẻ mặc váy trắng đang ngồi ở bàn trong quán cà phê và uống cà phê.",
    "tr": "Bu video, beyaz elbiseli genç bir kadının bir kafede masada oturup kahve içtiğini gösteriyor ve arka planda bir sokak var.",
    "pl": "Film przedstawia młodą kobietę w białej sukience, która siedzi przy stole w kawiarni i pije kawę.",
    "sv": "Videon visar en ung kvinna i en vit klänning som sitter vid ett bord på ett kafé och dricker kaffe.",
    "ru": "На видео молодая женщина в белом платье сидит за столом в кафе и пьёт кофе. Камера неподвижна.",
    "uk": "На відео молода жінка в білій сукні сидить за столом у кав'ярні і п'є каву, за вікном нічна вулиця.",
    "zh": "视频中，一位身穿白色连衣裙的年轻女子坐在咖啡馆的桌旁喝咖啡。镜头静止不动。",
    "ja": "この動画では、白いドレスを着た若い女性がカフェのテーブルに座ってコーヒーを飲んでいます。",
    "ko": "이 영상에는 흰 드레스를 입은 젊은 여성이 카페 테이블에 앉아 커피를 마시는 모습이 담겨 있습니다.",
    "ar": "يظهر هذا الفيديو امرأة شابة ترتدي فستانًا أبيض تجلس على طاولة في مقهى وتشرب القهوة.",
    "he": "הסרטון מציג אישה צעירה בשמלה לבנה יושבת ליד שולחן בבית קפה ושותה קפה.",
    "hi": "इस वीडियो में सफेद पोशाक पहने एक युवती कैफे में मेज पर बैठकर कॉफी पी रही है।",
    "th": "วิดีโอนี้แสดงหญิงสาวในชุดเดรสสีขาวนั่งอยู่ที่โต๊ะในคาเฟ่และดื่มกาแฟ",
}
NEAR = {("es", "it"), ("es", "pt"), ("pt", "es"), ("it", "es"), ("ru", "uk"), ("uk", "ru")}
"""Languages so near that a sentence may pass for both."""


def test_every_language_that_a_recipe_may_name_is_known_and_tried_here() -> None:
    assert set(GOOD) == set(get_args(Language))


@pytest.mark.parametrize("language", GOOD)
def test_a_good_caption_is_refused_in_no_language_but_the_others(language: Language) -> None:
    assert check(GOOD[language], Captioning(language=language)) == ""
    passed = [other for other in GOOD if other != language and not wrong_language(GOOD[language], other)]
    assert [other for other in passed if (language, other) not in NEAR] == []


@pytest.mark.parametrize(
    "caption",
    [
        "a red circle moves left",
        "A man says sorry to a woman, who cannot stop laughing.",
        "A sign says: no video, no entry.",
        "A pianist plays Mozart in Wien.",
        "Two dogs, I think, chase a ball.",
        "CGI robot fight, 4K",
        "The cat looks at the dog, and the dog looks at the cat, and the cat runs.",
    ],
)
def test_a_short_or_odd_caption_is_kept(caption: str) -> None:
    assert check(caption, Captioning()) == ""


@pytest.mark.parametrize(
    ("caption", "problem"),
    [
        ("", "empty"),
        (" \n ", "empty"),
        ("I'm sorry, but I can't assist with that request.", "refusal"),
        ("I cannot see any video.", "refusal"),
        ("Sorry, the frames are too dark to describe.", "refusal"),
        ("As an AI language model I do not watch videos.", "refusal"),
        ("This video shows a street. I am unable to view the rest.", "refusal"),
        ("It seems that no images were provided.", "refusal"),
        ("对不起，我无法描述这个视频。", "refusal"),
        ("Sunset", "too short: 1 words, at least 3"),
        (" ".join(f"word{k}" for k in range(261)), "too long: 261 words, at most 260"),
        ("the cat sits on the mat and " * 6, "repeats itself"),
        ("1 2 3 4 5", "wrong language: no letters"),
        ("这是一只狗在草地上奔跑的视频", "wrong language: Han letters, expected Latin for en"),
        ("Ein Mann geht mit dem Hund auf die Straße, und die Sonne scheint.", "wrong language: de by its words"),
    ],
)
def test_what_is_no_caption_is_refused_with_its_kind(caption: str, problem: str) -> None:
    assert check(caption, Captioning()).startswith(problem)


def test_japanese_is_not_taken_for_chinese_nor_chinese_for_japanese() -> None:
    assert wrong_language(GOOD["zh"], "ja")
    assert wrong_language(GOOD["ja"], "zh")


def test_words_are_counted_where_no_space_parts_them() -> None:
    assert count_words("one two-three it's 4") == 4
    assert count_words("一只狗在草地上") == 4
    assert count_words("") == 0
