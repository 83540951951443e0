"""Words of the generated worlds: six themes in English and in Chinese, each with things to name and things to do.

A theme is told by meaning: it has so many words that most of them are rare, and no word belongs to two themes.
"""

from __future__ import annotations

THEMES = ("sea", "space", "kitchen", "forest animals", "city trains", "castle")
"""The text styles."""


def _words(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(","))


NAMES = (
    _words(
        "harbour, lighthouse, coral reef, fishing village, open ocean, rocky coast, ship's deck, tidal bay, "
        "sailors, whales, fishermen, dolphins, pearl divers, old captain, seagulls, tides, anchor, breakers, "
        "mainsail, seashells, fishing nets, salt spray, driftwood, lagoon, pier, jellyfish, mermaid, shipwreck, "
        "low tide, buoys, oyster beds, surf, sandbar, rowing boat, sardines, kelp, undertow, foghorn, shoreline, "
        "trawler, albatross, compass rose, cabin boy, schooner, hurricane coast, octopus, starfish, beach, "
        "cormorants, sea urchins, ferry wake, barnacles, cliffs of chalk, drowned bell, dockside, ebb, "
        "gulf stream, plankton, seals on the rocks, longest wave"
    ),
    _words(
        "moon, space station, observatory, rings of Saturn, launch pad, Milky Way, Martian desert, lunar orbit, "
        "astronauts, comets, stargazers, satellites, cosmonauts, far planets, meteors, constellations, rocket, "
        "galaxies, eclipse, telescope, zero gravity, spacesuit, asteroids, Venus, Jupiter, supernova, black hole, "
        "solar wind, airlock, countdown, nebula, dark side of the moon, Orion, light years, capsule, radio dish, "
        "craters, red planet, zodiac, aurora, Pluto, ground control, shuttle, stardust, vacuum, pulsars, "
        "Andromeda, docking bay, heat shield, outer dark, polar star, moonwalkers, planetarium, sunspots, "
        "meteorite, Neptune, cosmos, cold orbit, lander, event horizon"
    ),
    _words(
        "bakery, spice market, grandmother's kitchen, bread oven, noodle stall, dinner table, pantry, bakers, "
        "hungry cooks, soup pot, pastry chef, dinner guests, warm bread, cinnamon, dumplings, recipe, honey cake, "
        "garlic, lemon tart, apple pie, kettle, frying pan, wooden spoon, apron, rolling pin, butter dish, "
        "sourdough, pepper mill, roast potatoes, tomato sauce, chopping board, breakfast plates, jam jars, "
        "saffron rice, cheese board, leftovers, stew, olive oil, cookbook, teapot, pancakes, sugar bowl, "
        "Sunday lunch, onions, broth, icing, teaspoons, vinegar, curry, biscuit tin, menu, gravy, waffles, dough, "
        "taste of basil, ladle, sizzling pan, oven door, yeast, dessert"
    ),
    _words(
        "pine forest, fox den, mossy clearing, beaver dam, oak hollow, bear cave, woodland trail, owl's nest, "
        "foxes, wolves, owls, badgers, lonely bear, squirrels, deer, hedgehogs, acorns, paw prints, wild berries, "
        "pine needles, antlers, mushrooms, fallen feathers, burrow, thicket, fern, stag, wild boar, woodpecker, "
        "beetles, bramble, hare, otter, lynx, birch grove, undergrowth, rabbit hole, raven, bark, fawn, cuckoo, "
        "spruce, toadstools, anthill, wolf pack, moss, salamander, weasel, moose, tree roots, canopy, hibernation, "
        "chestnut tree, squirrel's hoard, polecat, dormouse, nightingale, hollow log, cubs, snail trail"
    ),
    _words(
        "subway platform, central station, night bus, tram line, railway bridge, ticket hall, avenue, bus depot, "
        "commuters, train driver, conductor, late passengers, taxi drivers, night porter, timetable, last train, "
        "rails, rush hour, ticket gate, crowded carriage, tunnel, luggage rack, escalator, sleeper car, "
        "traffic lights, terminus, suburb, signal box, metro map, turnstile, level crossing, delay, downtown, "
        "platform nine, dining car, monorail, newsstand, crosswalk, side street, skyscrapers, waiting room, "
        "one-way ticket, neon street, locomotive, sidings, window seat, express, freight cars, kerb, interchange, "
        "overpass, whistle of the guard, apartment blocks, streetcar, departure board, underpass, bus stop, "
        "junction, rattling wagon, season ticket"
    ),
    _words(
        "castle, throne room, drawbridge, royal court, dragon's lair, jousting field, stone tower, kingdom, "
        "knights, young queen, dragons, old king, squire, swordsmith, royal guard, court wizard, crown, sword, "
        "shield, banners, armour, royal feast, siege, tournament, dungeon, moat, battlements, princess, jester, "
        "heralds, coat of arms, catapult, minstrel, chain mail, crusade, holy grail, duke, abbey, peasants, "
        "scroll, catacombs, lance, portcullis, knighthood, enchantress, gallows, chalice, round table, archers, "
        "usurper, coronation, fief, great hall, sceptre, barons, gargoyle, executioner, blacksmith, page boy, quest"
    ),
)
"""What a theme can name; "the" goes before any of them."""

DEEDS = (
    _words(
        "mend the nets, sail past the headland, dive for pearls, swim with the current, row against the swell, "
        "drop anchor, gather shells, ride the waves, trim the sails, float on our backs, drift out with the tide, "
        "steer for open water, scrub the deck, cast a line, wade through the shallows"
    ),
    _words(
        "circle the sun, fall through weightless air, count the stars, walk on lunar dust, wait for lift-off, "
        "leave the atmosphere, send signals to nobody, name new planets, burn on re-entry, "
        "float outside the hatch, orbit without sleep, watch the Earth rise, look through the lens at night, "
        "chase comets, land on Mars"
    ),
    _words(
        "knead the dough, stir the soup, bake until noon, slice the onions, set the table, simmer it slowly, "
        "lick the spoon, season the stew, pour the tea, roll out the pastry, taste everything twice, "
        "wash the dishes, melt the butter, peel the potatoes, eat with our fingers"
    ),
    _words(
        "howl at dusk, climb the old oak, follow the tracks, hide among ferns, sleep through the winter in a den, "
        "hunt for berries, bury the nuts, listen for the owl, run with the pack, dig under roots, "
        "drink from the brook like deer, sharpen our claws, build a nest, sniff the wind, leap over logs"
    ),
    _words(
        "miss the last train, change at the next stop, stand on the escalator, wait for the green light, "
        "ride to the terminus, lean on the carriage door, read the timetable, run down the platform, hail a cab, "
        "cross at the lights, fall asleep on the bus, lose our tickets, mind the gap, sit in traffic, "
        "take the elevated line"
    ),
    _words(
        "storm the gate, kneel before the king, slay the dragon, swear an oath, raise the drawbridge, "
        "ride into battle, guard the tower, wear the crown, polish the armour, bow to the queen, "
        "besiege the walls, joust at noon, seek the grail, forge a blade, carry the banner"
    ),
)
"""What "we" do in a theme."""

CHINESE_NAMES = (
    _words(
        "大海, 海湾, 港口, 海岛, 灯塔, 海岸, 水手, 渔夫, 海鸥, 船长, 浪花, 珊瑚, 帆船, 贝壳, 鲸鱼, 海豚, 渔网, "
        "潮水, 沙滩, 码头"
    ),
    _words(
        "太空, 星空, 月球, 火星, 银河, 宇宙, 宇航员, 天文台, 火箭, 卫星, 流星, 行星, 望远镜, 土星, 黑洞, 飞船, "
        "彗星, 星座, 北极星, 轨道"
    ),
    _words(
        "厨房, 面包店, 茶馆, 饭桌, 菜市场, 小吃店, 厨师, 面包师, 奶奶的菜, 食客, 饺子, 面条, 热汤, 米饭, 酱油, "
        "锅铲, 蛋糕, 早餐, 辣椒, 炒菜"
    ),
    _words(
        "森林, 松林, 山林, 林中小屋, 树洞, 林间, 狐狸, 小熊, 野狼, 小鹿, 松鼠, 猫头鹰, 刺猬, 蘑菇, 野兔, 橡树, "
        "鸟巢, 野猪, 啄木鸟, 青苔"
    ),
    _words(
        "地铁, 火车站, 电车, 市中心, 夜班车, 站台, 司机, 乘客, 列车员, 上班族, 车票, 隧道, 红绿灯, 天桥, 末班车, "
        "车厢, 铁轨, 候车室, 公交站, 高楼"
    ),
    _words(
        "城堡, 王国, 王宫, 古塔, 王座, 宫殿, 国王, 骑士, 女王, 王子, 宝剑, 盔甲, 巨龙, 王冠, 护城河, 公主, 盾牌, "
        "城墙, 魔法师, 号角"
    ),
)

CHINESE_DEEDS = (
    _words(
        "扬帆出海, 收起渔网, 在浪里游泳, 听潮水的声音, 拾起贝壳, 随海浪漂流, 守着灯塔, 驶向远洋"
    ),
    _words(
        "飞向太空, 数天上的星星, 绕着月亮转, 等待火箭升空, 寻找新的行星, 在失重中漂浮, 看流星划过, 登上火星"
    ),
    _words(
        "一起包饺子, 揉好面团, 慢慢炖汤, 尝一口咸淡, 摆好碗筷, 烤熟面包, 切碎洋葱, 倒一杯热茶"
    ),
    _words(
        "走进密林, 追着野兔跑, 躲在树洞里, 听猫头鹰叫, 采林中的蘑菇, 跟着狼群, 爬上老橡树, 在窝里过冬"
    ),
    _words(
        "等下一班地铁, 错过末班车, 穿过马路, 挤进车厢, 看着站台远去, 在车上睡着, 换乘电车, 堵在路上"
    ),
    _words(
        "跪在国王面前, 守卫城墙, 挥剑屠龙, 戴上王冠, 攻打城门, 发誓效忠, 骑马出征, 放下吊桥"
    ),
)
