#include "text/word_lists.h"

/* clang-format off */
const char *const lk_adjectives[LK_N_WORDS] = {
    "able", "amber", "ample", "ancient", "angry", "arid", "bald", "bashful", "bitter", "blank",
    "blunt", "brave", "bright", "brisk", "broad", "broken", "bronze", "bumpy", "busy", "calm",
    "careful", "cheerful", "chilly", "civil", "clean", "clever", "cloudy", "clumsy", "coarse",
    "coastal", "cold", "colorful", "cosmic", "cozy", "crimson", "crisp", "crooked", "curious",
    "curly", "damp", "daring", "dark", "dazzling", "decent", "deep", "dense", "distant", "dizzy",
    "double", "dreamy", "dry", "dusty", "eager", "early", "easy", "elastic", "elegant", "endless",
    "exact", "faint", "fair", "famous", "fancy", "fast", "fearless", "fierce", "final", "firm",
    "flat", "fluffy", "fond", "formal", "frank", "fresh", "frosty", "gentle", "giant", "golden",
    "graceful", "grand", "greedy", "green", "grumpy", "happy", "hasty", "heavy", "hollow",
    "honest", "humble", "hungry", "icy", "idle", "jolly", "keen", "large", "lazy", "lonely",
    "loyal", "lucky", "magic", "mellow", "merry", "mighty", "narrow", "neat", "noble", "noisy",
    "odd", "pale", "patient", "plain", "polite", "proud", "purple", "quick", "quiet", "rapid",
    "rare", "rusty", "salty", "shallow", "sharp", "shiny", "silent", "silver", "sleepy", "slim",
    "solid", "spare", "steady", "steep", "stormy", "striped", "strong", "sturdy", "sunny", "swift",
    "tame", "tender", "thick", "tiny", "tough", "vast", "vivid", "warm", "wild", "wise", "witty",
    "young", "zesty"};

const char *const lk_nouns[LK_N_WORDS] = {
    "acorn", "alley", "anchor", "apple", "apron", "arrow", "artist", "autumn", "badge", "baker",
    "barn", "basket", "beach", "beacon", "bear", "beaver", "berry", "bicycle", "bird", "blanket",
    "boat", "bottle", "bowl", "branch", "bread", "button", "cabin", "cactus", "camel", "candle",
    "canoe", "carpet", "cedar", "cellar", "chair", "cherry", "chimney", "clock", "compass",
    "cottage", "cradle", "cricket", "crown", "curtain", "desk", "diary", "dolphin", "donkey",
    "drum", "eagle", "easel", "elbow", "engine", "falcon", "fence", "ferry", "fiddle", "field",
    "finger", "flute", "fountain", "fox", "garden", "gate", "ginger", "glove", "goose", "grape",
    "hammer", "harbor", "hazel", "helmet", "hill", "horse", "island", "ivy", "jacket", "jungle",
    "kitchen", "kite", "ladder", "lagoon", "lake", "lantern", "letter", "library", "lily", "lion",
    "lizard", "magnet", "maple", "meadow", "melon", "monkey", "moon", "mountain", "museum",
    "needle", "nest", "oak", "olive", "orchard", "otter", "paddle", "palace", "panda", "path",
    "peach", "pebble", "pencil", "piano", "pillow", "pine", "planet", "pocket", "poppy", "potato",
    "quilt", "rabbit", "raven", "river", "robin", "salmon", "scarf", "school", "shell", "singer",
    "sparrow", "spoon", "squirrel", "statue", "stove", "summer", "tailor", "teacher", "thunder",
    "train", "tulip", "tunnel", "turtle", "valley", "velvet", "village", "violin", "wagon",
    "whistle", "window", "wizard", "yacht", "zebra"};
/* clang-format on */
