// Runs a script for QuPath with stand-ins for what it uses of QuPath: an image, a project, and objects from GeoJSON.
// Arguments: the script, and a JSON file with "image", "project" and "objects". Prints a line of JSON at the end.
import groovy.json.JsonOutput
import groovy.json.JsonSlurper

def state = new JsonSlurper().parse(new File(args[1]), 'UTF-8')
def loader = new GroovyClassLoader(this.class.classLoader)
loader.parseClass('''
package qupath.lib.objects
class PathClass {
    String name
    String toString() { name }
}
class PathObject {
    UUID id
    PathClass pathClass
    boolean locked
    UUID getID() { id }
    PathClass getPathClass() { pathClass }
    void setPathClass(PathClass one) { pathClass = one }
}
''')
loader.parseClass('''
package qupath.lib.io
class PathIO {
    static Map classes = [:]
    static List readObjects(File file) {
        new groovy.json.JsonSlurper().parse(file, 'UTF-8').features.collect { make(it.id, it.properties.classification) }
    }
    static Object make(String id, Map kind) {
        def name = kind.names == null ? kind.name : kind.names.join(': ')
        if (!classes.containsKey(name))
            classes[name] = new qupath.lib.objects.PathClass(name: name)
        new qupath.lib.objects.PathObject(id: UUID.fromString(id), pathClass: classes[name])
    }
}
class GsonTools {
    static Object getInstance() { new GsonTools() }
    Object fromJson(String text, Class type) { new groovy.json.JsonSlurper().parseText(text) }
}
''')
loader.parseClass('''
package qupath.lib.projects
class Projects {
    static File getBaseDirectory(Object project) { project.base }
}
''')
def pathIO = loader.loadClass('qupath.lib.io.PathIO')

class Pixel {
    def microns
    boolean hasPixelSizeMicrons() { microns != null }
    double getAveragedPixelSizeMicrons() { microns }
}

class Server {
    Map image
    def getWidth() { image.width }
    def getHeight() { image.height }
    def getURIs() { image.uris.collect { new URI(it) } }
    def getPixelCalibration() { new Pixel(microns: image.microns) }
    def getMetadata() { this }
    def getName() { image.name }
}

class Hierarchy {
    List annotations
    def getAnnotationObjects() { annotations }
}

class Entry {
    Map image
    def getID() { image.id }
    def getImageName() { image.name }
    def getURIs() { image.uris.collect { new URI(it) } }
    def readHierarchy() {
        if (image.broken)
            throw new IOException('data is damaged')
        new Hierarchy(annotations: image.annotations)
    }
}

class Project {
    File base
    List classes
    List images
    def getPathClasses() { classes }
    def getImageList() { images }
}

def objects = state.objects.collect { one ->
    def made = pathIO.make(one.id, [name: one.name])
    made.locked = one.locked == true
    made
}
def project = null
if (state.project != null) {
    def known = state.project.classes.collect { name -> pathIO.make(UUID.randomUUID().toString(), [name: name]).getPathClass() }
    project = new Project(base: new File(state.project.base), classes: [null] + known,
        images: state.project.images.collect { new Entry(image: it) })
}
def entry = state.open == null ? null : project.images.find { it.getID() == state.open }
def printed = new StringWriter()
def pixel = null
def binding = new Binding([
    out: new PrintWriter(printed),
    getCurrentServer: { state.image == null ? null : new Server(image: state.image) },
    getProject: { project },
    getProjectEntry: { entry },
    getCurrentHierarchy: { new Hierarchy(annotations: state.unsaved) },
    getAllObjects: { boolean root -> objects },
    removeObjects: { Collection some, boolean keepChildren -> objects.removeAll { one -> some.any { it.is(one) } } },
    addObjects: { Collection some -> objects.addAll(some) },
    setPixelSizeMicrons: { Number x, Number y -> pixel = [x, y] },
    fireHierarchyUpdate: { },
    exportObjectsToGeoJson: { Collection some, String path, String option ->
        new File(path).setText(JsonOutput.toJson([option: option, objects: some]), 'UTF-8')
    },
])
def failure = null
try {
    new GroovyShell(loader, binding).evaluate(new File(args[0]))
} catch (RuntimeException | IOException error) {
    failure = error.getMessage()
}
println '\n' + JsonOutput.toJson([
    objects: objects.collect { [it.getID().toString(), it.getPathClass().toString()] },
    pixel: pixel, failure: failure, printed: printed.toString().readLines(),
])
