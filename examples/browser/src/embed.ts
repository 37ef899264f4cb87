/** All that a page needs to hold a merger. */
import "mwa-merge/element";
