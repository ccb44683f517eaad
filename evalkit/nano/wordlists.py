"""Common words by language code, written for evalkit; NFC."""

WORDS: dict[str, tuple[str, ...]] = {
    "en": tuple(
        (
            "water house street market bread garden window morning school letter number open "
            "closed exit summer winter station river mountain forest bridge paper silver golden "
            "orange coffee sugar doctor ticket museum"
        ).split()
    ),
    "de": tuple(
        (
            "Straße Brücke Schlüssel Mädchen Größe Frühling Öffnung Kaffee Zucker Fenster Garten "
            "Wasser Brot Morgen Schule Brief Käse Tür grün weiß"
        ).split()
    ),
    "fr": tuple(
        (
            "fenêtre école forêt été château garçon français café théâtre hôtel pâtisserie marché "
            "réunion déjà leçon billet musée rivière naïf sœur"
        ).split()
    ),
    "vi": tuple(
        (
            "nước đường cửa sách trường chợ phố bánh mì sáng tối bạn người đẹp lớn nhỏ xanh "
            "đỏ vàng trắng"
        ).split()
    ),
    "ru": tuple(
        (
            "вода улица хлеб школа письмо окно утро рынок мост река лес гора зима лето билет "
            "музей кофе чай врач город"
        ).split()
    ),
    "el": tuple(
        (
            "νερό δρόμος ψωμί σχολείο γράμμα παράθυρο πρωί αγορά γέφυρα ποτάμι δάσος βουνό "
            "χειμώνας καλοκαίρι μουσείο καφές ζάχαρη γιατρός πόλη φως"
        ).split()
    ),
    "ar": tuple(
        (
            "ماء شارع خبز مدرسة رسالة نافذة صباح سوق جسر نهر غابة جبل شتاء صيف متحف قهوة سكر "
            "طبيب مدينة باب"
        ).split()
    ),
    "zh": tuple(
        (
            "水 街道 面包 学校 信 窗户 早上 市场 桥 河 森林 山 冬天 夏天 博物馆 "
            "咖啡 糖 医生 城市 门"
        ).split()
    ),
    "ja": tuple(
        (
            "みず みち パン がっこう てがみ まど あさ いちば はし かわ もり やま ふゆ なつ "
            "コーヒー さとう いしゃ まち ドア えき"
        ).split()
    ),
    "ko": tuple(
        (
            "물 거리 빵 학교 편지 창문 아침 시장 다리 강 숲 산 겨울 여름 박물관 "
            "커피 설탕 의사 도시 문"
        ).split()
    ),
    "hi": tuple(
        (
            "पानी सड़क रोटी विद्यालय पत्र खिड़की सुबह बाज़ार पुल नदी जंगल पहाड़ "
            "सर्दी गर्मी संग्रहालय कॉफ़ी चीनी डॉक्टर शहर दरवाज़ा"
        ).split()
    ),
}
